"""Copies bytes in compiled kernels.

numba copies between arrays item by item, because it cannot know that they do not overlap; `memcpy` says so, and is
inlined where the number of bytes is a constant.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _memcpy(_context: Any, to_address: Any, from_address: Any, count: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> ir.Constant:
        pointer, length = ir.PointerType(ir.IntType(8)), ir.IntType(64)
        target, source = (builder.inttoptr(address, pointer) for address in arguments[:2])
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, length])
        builder.call(memcpy, [target, source, arguments[2], ir.Constant(ir.IntType(1), 0)])
        return ir.Constant(pointer, None)

    return types.void(types.uintp, types.uintp, types.intp), generate


# copy_bytes(to_address, from_address, count), addresses being `array.ctypes.data` and an offset: nothing checks them.
copy_bytes = cast(Callable[[int, int, int], None], intrinsic(_memcpy))
