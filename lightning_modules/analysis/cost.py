"""What a network computes: multiply-adds by a named convention, by module and by exit.

Operations are counted where PyTorch dispatches them, so functional calls count as modules do. Conventions:

- ``multiply_adds``: those of convolutions and linear layers, what most papers report.
- ``paper``: of the tables of ResKD ("Rethinking Resolution in the Context of Efficient Video Recognition", NeurIPS
  2022), as its toolbox counts: these, and the biases of convolutions, normalised elements twice, outputs of ReLU and
  inputs of pooling; not GELU, residual additions or the products within attention.
- ``with_attention``: ``multiply_adds``, and products of activations with each other, as in attention.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules.analysis.evaluating import evaluating
from lightning_modules.networks.early_exit import EarlyExitNetwork, EarlyExitNetworks

Convention = Literal["multiply_adds", "paper", "with_attention"]
Kind = Literal["weights", "attention", "conv_bias", "norm", "relu", "pool"]

# What one unit of each kind of work counts.
CONVENTIONS: dict[Convention, dict[Kind, int]] = {
    "multiply_adds": {"weights": 1},
    "paper": {"weights": 1, "conv_bias": 1, "norm": 2, "relu": 1, "pool": 1},
    "with_attention": {"weights": 1, "attention": 1},
}


@dataclass(frozen=True)
class Cost:
    """What one pass over the example inputs costs.

    Args:
        convention: by which it is counted.
        modules: by dotted name, what each module does itself, without the modules inside it; in order of execution.
        exits: of an early-exit network, what each exit costs beyond the exits before it in its network.
        uncounted: operations with weights that no convention knows, and how often each ran: ``aten.op in module``.
    """

    convention: Convention
    modules: dict[str, int]
    exits: dict[str, int]
    uncounted: dict[str, int]

    @property
    def total(self) -> int:
        """The whole pass, all exits included."""
        return sum(self.modules.values())

    def within(self, name: str) -> int:
        """What a module costs with all the modules inside it."""
        return sum(cost for module, cost in self.modules.items() if f"{module}.".startswith(f"{name}."))

    def to_exit(self, name: str) -> int:
        """What it costs to reach an exit of a network: up to it, with all the classifiers on the way."""
        stream, _, _ = name.rpartition("/")
        own = [exit for exit in self.exits if exit.rpartition("/")[0] == stream]
        return sum(self.exits[exit] for exit in own[: own.index(name) + 1])

    def table(self, depth: int = 2) -> str:
        """Modules down to ``depth``, exits, and what was not counted; in millions."""
        rows = dict.fromkeys(".".join(name.split(".")[:depth]) for name, cost in self.modules.items() if cost)
        costs = {name: self.within(name) if name.count(".") == depth - 1 else self.modules[name] for name in rows}
        lines = [f"{'module':<28}{self.convention:>16}{'share':>8}   (millions)"]
        for name, cost in {**costs, "total": self.total}.items():
            lines.append(f"{name or '(itself)':<28}{cost / 1e6:>16,.2f}{cost / max(self.total, 1):>8.1%}")
        if self.exits:
            lines += ["", f"{'exit':<28}{'by itself':>16}{'to reach':>16}"]
        for name, cost in self.exits.items():
            lines.append(f"{name:<28}{cost / 1e6:>16,.2f}{self.to_exit(name) / 1e6:>16,.2f}")
        if self.uncounted:
            lines += ["", "NOT COUNTED, since no convention knows them:"]
        return "\n".join([*lines, *(f"  {count} x {name}" for name, count in self.uncounted.items())])

    def __str__(self) -> str:
        return self.table()


def cost_of(model: nn.Module, *example_inputs: Any, convention: Convention = "multiply_adds") -> Cost:
    """Count what ``model`` computes for ``example_inputs``, in eval mode and without gradients.

    Costs nothing on the meta device: build the network and the inputs under ``with torch.device("meta")``.

    Args:
        model: any network; of ``EarlyExitNetwork`` and ``EarlyExitNetworks`` exits are counted one by one. Its modes
            and weights are left as they are.
        example_inputs: what its ``forward`` takes, e.g. (1, T, C, H, W) for the cost of a clip, T = 1 for a frame's.
        convention: what counts, see the module.

    Raises:
        ValueError: an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"expected `convention` of {list(CONVENTIONS)}, came {convention!r}")
    counter = _WorkCounter(model, CONVENTIONS[convention])
    with _in_use(model), counter.naming_modules(), counter:
        exits: dict[str, int] = {}
        for name, _ in _outputs(model, example_inputs):
            exits[name] = counter.total - sum(exits.values())
    exits.pop("", None)
    return Cost(convention, dict(counter.modules), exits, dict(counter.uncounted))


def _outputs(model: nn.Module, inputs: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The exits of an early-exit network as they come; of another network the output, without a name."""
    if isinstance(model, EarlyExitNetwork):
        return model.exits(*inputs)
    if isinstance(model, EarlyExitNetworks):
        (streams,) = inputs
        return model.exits(lambda stream: streams[stream])
    return iter([("", model(*inputs))])


@contextmanager
def _in_use(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients; no fused kernel for attention, which would hide its parts."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


# An operation's arguments, and whether a tensor is a weight -> units of work by kind.
IsWeight = Callable[[Any], bool]
Formula = Callable[[Sequence[Any], Tensor, IsWeight], dict[Kind, int]]


def _convolution(args: Sequence[Any], out: Tensor, is_weight: IsWeight) -> dict[Kind, int]:
    """Each output element (for transposed ones, each input element) meets the whole of one filter."""
    maps, weight, bias, transposed = args[0], args[1], args[2], args[6]
    work: dict[Kind, int] = {"weights": (maps if transposed else out).numel() * weight[0].numel()}
    return work if bias is None else {**work, "conv_bias": out.numel()}


def _linear(args: Sequence[Any], out: Tensor, is_weight: IsWeight) -> dict[Kind, int]:
    """(..., n) @ (n, m), the last two arguments; a bias before them costs nothing."""
    left = args[-2]
    return {"weights": out.numel() * left.shape[-1]}


def _batched_product(args: Sequence[Any], out: Tensor, is_weight: IsWeight) -> dict[Kind, int]:
    """As attention has them, unless one side is a weight."""
    left, right = args[-2:]
    return {"weights" if is_weight(left) or is_weight(right) else "attention": out.numel() * left.shape[-1]}


def _attention(args: Sequence[Any], out: Tensor, is_weight: IsWeight) -> dict[Kind, int]:
    """Query (..., L, E) by key (..., S, E), and the result by value (..., S, F)."""
    query, key, value = args[:3]
    return {"attention": query.shape[:-1].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1])}


def _elements(kind: Kind) -> Formula:
    """Of the first argument, as many as it has."""
    return lambda args, out, is_weight: {kind: args[0].numel()}


def _mean(args: Sequence[Any], out: Tensor, is_weight: IsWeight) -> dict[Kind, int]:
    """Over two dimensions or more it is pooling to one cell; over one, e.g. a consensus of frames."""
    return {"pool": args[0].numel()} if len(args) > 1 and args[1] and len(args[1]) > 1 else {}


def _packets(names: str) -> set[Any]:
    """The operations of these names, as far as this version of PyTorch has them."""
    return {getattr(torch.ops.aten, name) for name in names.split() if hasattr(torch.ops.aten, name)}


def _table(*rows: tuple[Formula, str]) -> dict[Any, Formula]:
    return {operation: formula for formula, names in rows for operation in _packets(names)}


FORMULAS = _table(
    (_convolution, "convolution"),
    (_linear, "mm addmm mv addmv"),
    (_batched_product, "bmm baddbmm"),
    (
        _attention,
        "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    (
        _elements("norm"),
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
        "_batch_norm_no_update cudnn_batch_norm native_layer_norm native_group_norm _fused_rms_norm",
    ),
    (_elements("relu"), "relu relu_"),
    (
        _elements("pool"),
        "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d _adaptive_avg_pool2d "
        "_adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d",
    ),
    (_mean, "mean"),
)
# What weights may go through at no cost, beside views and what works on each element.
MOVES = _packets("embedding index index_select gather cat stack roll flip repeat constant_pad_nd _unsafe_view")


class _WorkCounter(TorchDispatchMode):
    """Counts what is dispatched while it is entered.

    Args:
        model: whose modules and weights are meant.
        units: what one unit of each kind of work counts.
    """

    def __init__(self, model: nn.Module, units: dict[Kind, int]) -> None:
        super().__init__()
        self.units = units
        self.total = 0
        self.modules: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._names = {module: name for name, module in model.named_modules()}
        self._running = [""]
        self._weights = {_storage(weight) for weight in (*model.parameters(), *model.buffers())}
        self._made: list[Tensor] = []

    @contextmanager
    def naming_modules(self) -> Iterator[None]:
        """Know which module is running, until left."""
        enter = register_module_forward_pre_hook(
            lambda module, args: self._running.append(self._names.get(module, self._running[-1]))
        )
        leave = register_module_forward_hook(lambda module, args, out: self._leave())
        try:
            yield
        finally:
            enter.remove()
            leave.remove()

    def _leave(self) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in FORMULAS:
            with self:  # in inference mode, compositions arrive here whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        module, formula = self._running[-1], FORMULAS.get(func._overloadpacket)
        if formula is not None:
            work = formula(args, out, self._is_weight)
            amount = sum(self.units.get(kind, 0) * count for kind, count in work.items())
            self.modules[module] += amount
            self.total += amount
            return
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        weights = [tensor for tensor in tensors if self._is_weight(tensor)]
        if not _is_free(func):
            self.uncounted.update([f"{func._overloadpacket} in {module or 'the model itself'}"] * bool(weights))
        elif weights and len(weights) == len(tensors):
            self._remember(out)  # a weight made of weights, such as one in another precision

    def _remember(self, out: Any) -> None:
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._made.append(tensor)  # alive, so that no other tensor gets its storage
                self._weights.add(_storage(tensor))

    def _is_weight(self, value: Any) -> bool:
        """Whether it is a parameter or buffer, a view of one, or made of nothing else."""
        return isinstance(value, Tensor) and _storage(value) in self._weights


def _is_free(func: Any) -> bool:
    return func.is_view or torch.Tag.pointwise in func.tags or func._overloadpacket in MOVES


def _storage(tensor: Tensor) -> int:
    """Tells storages apart, those without data too."""
    return tensor.untyped_storage()._cdata
