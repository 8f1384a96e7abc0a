"""Networks as files that other programs run: ONNX, and PyTorch's own ``torch.export``.

Each is traced once, for batches of any size, and answers like the network it was made of, or is refused.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

Format = Literal["onnx", "pt2"]
Run = Callable[[Tensor], Tensor]

INPUT, OUTPUT = "clip", "logits"
_TRACED_BATCH = 2  # of a size that tracing does not take for a constant
_CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportFormat:
    """A kind of file.

    Args:
        packages: what writing and running it needs besides PyTorch.
        write: a traced network to a file of the suffix ``.<format>``.
        load: the function in a file, clips (B, T, C, H, W) float32 -> logits (B, num_classes) float32, on the CPU.
    """

    packages: Sequence[str]
    write: Callable[[ExportedProgram, Path], None]
    load: Callable[[Path], Run]

    def check_packages(self) -> None:
        """Import what it needs.

        Raises:
            ModuleNotFoundError: it is not there.
        """
        try:
            for name in self.packages:
                import_module(name)
        except ImportError as error:
            raise ModuleNotFoundError(
                f"ONNX needs {', '.join(self.packages)} ({error}): `pip install 'streamkd[export]'`, or go without it, "
                "--formats '[pt2]'"
            ) from error


@dataclass(frozen=True)
class Agreement:
    """How far an exported network is from the one it was made of, over random clips.

    Args:
        difference: the greatest between two logits.
        largest: of the network's logits, by absolute value.
    """

    difference: float
    largest: float

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most this fraction of the largest logit; never where one is not a number."""
        return self.difference <= tolerance * self.largest

    def __str__(self) -> str:
        return f"{self.difference:.2g}, with logits up to {self.largest:.2g}"


def trace(network: nn.Module, shape: Sequence[int]) -> ExportedProgram:
    """Trace a network in eval mode for clips (B, *shape) of any B; ``shape``: (T, C, H, W)."""
    with torch.no_grad():
        clip = torch.zeros(_TRACED_BATCH, *shape)
        return torch.export.export(network, (clip,), dynamic_shapes=({0: Dim("batch")},), strict=False)


@torch.no_grad()
def compare(run: Run, original: Run, shape: Sequence[int]) -> Agreement:
    """Compare an exported network with the original on random clips (B, *shape), normally distributed, of several B."""
    random = torch.Generator().manual_seed(0)
    clips = [torch.randn(batch, *shape, generator=random) for batch in _CHECKED_BATCHES]
    logits = torch.cat([original(clip) for clip in clips])
    came = torch.cat([run(clip) for clip in clips])
    return Agreement((came - logits).abs().max().item(), logits.abs().max().item())


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    # Else it tells of every operator of torchvision that it is not there.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    options: Any = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamo": True, "verbose": False}
    written = torch.onnx.export(program, **options)
    assert written is not None
    written.save(path, external_data=False)


def _load_onnx(path: Path) -> Run:
    session = import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run([OUTPUT], {INPUT: clip.numpy()})[0])


def _write_program(program: ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def _load_program(path: Path) -> Run:
    return torch.export.load(path).module()


FORMATS: Mapping[Format, ExportFormat] = {
    "onnx": ExportFormat(("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "pt2": ExportFormat((), _write_program, _load_program),
}
