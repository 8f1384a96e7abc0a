"""A network without the weights that a forward pass never touches."""

from collections.abc import Callable, Iterable, Mapping, Set
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


@torch.no_grad()
def used_part(network: nn.Module, clip: Tensor) -> nn.Module:
    """A copy of a network in which submodules whose weights and buffers are not used are replaced by the identity.

    Args:
        network: in eval mode.
        clip: what it is called with to find out.
    """
    copy = deepcopy(network)
    with _Touched() as touched:
        copy(clip)
    _drop_untouched(copy, touched.tensors)
    return copy


class _Touched(TorchFunctionMode):
    """Notes by ``id`` the tensors that functions are given."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.tensors |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **kwargs)


def _drop_untouched(module: nn.Module, touched: Set[int]) -> None:
    for name, child in module.named_children():
        own = {id(tensor) for tensor in (*child.parameters(), *child.buffers())}
        if own and own.isdisjoint(touched):
            setattr(module, name, nn.Identity())
        else:
            _drop_untouched(child, touched)
