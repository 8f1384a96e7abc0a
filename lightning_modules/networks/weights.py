"""Start a network from weights in a URL, a file or a checkpoint, ours or public, and say what did not match.

Weights are read with ``torch.load(weights_only=True)``: nothing in them is executed.
"""

import hashlib
import logging
import os
import shutil
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rich.progress
import torch
from torch import Tensor, nn

from lightning_modules.networks.public_names import Translation, translate

_log = logging.getLogger(__name__)

# What networks count or compute by themselves: a file may lack it or, as one of 2-D windows, have it in another shape.
# Files older than PyTorch 0.4.1 do not count batches.
OWN = ("num_batches_tracked", "relative_position_index")
# Where files keep a state dict, unless they are one.
ENTRIES = ("state_dict", "model")
# What wrappers put before the names of a network: a LightningModule of ours, DataParallel.
PREFIXES = ("network.", "module.")


@dataclass
class WeightReport:
    """How the entries of a source met the parameters and buffers of a network.

    Args:
        source: where the weights came from.
        loaded: names taken over as they are.
        adapted: names of entries fitted to the network: first convolutions to other input channels, or from blue,
            green, red; 2-D kernels and position biases repeated over time.
        mismatched: name, and the shapes in source and network; left at their initial values.
        missing: names of the network that the source lacks; left at their initial values.
        unexpected: names of the source that the network lacks; ignored.
        translated: names of the network whose entries came under other, public names.
        left_out: names of the source that belong to another network, such as a teacher, or are made anew; ignored.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    translated: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether every entry of the network was taken over as it is."""
        return not (self.adapted or self.mismatched or self.missing or self.unexpected)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} entries loaded"]
        for kind in ("adapted", "mismatched", "missing", "unexpected"):
            if names := getattr(self, kind):
                lines.append(f"{kind} ({len(names)}): {', '.join(names)}")
        if self.translated:
            lines.append(f"{len(self.translated)} under names of a public code, translated")
        if self.left_out:
            lines.append(f"left out, of another network or made anew: {_prefixes(self.left_out)}")
        return "\n  ".join(lines)


def load_weights(network: nn.Module, source: str, *, sha256: str | None = None) -> WeightReport:
    """Copy into ``network`` whatever fits of the weights at ``source``.

    A first convolution over RGB is fitted to a network of other input channels by the mean over RGB, repeated: the
    cross-modality initialisation of TSN (Wang et al., ECCV 2016, section 3.2). A 2-D kernel is fitted to a 3-D one by
    repeating it over time and dividing it by the length: the inflation of I3D (Carreira and Zisserman, CVPR 2017,
    section 2.4). So are Swin's tables of position biases, not divided. 3-D kernels of length 1 fit 2-D ones as they
    are. Names of public checkpoints are translated (see
    ``public_names``). Entries of other shapes are left out, as the classifier is when the number of classes differs.
    What did not match is logged as a warning.

    Args:
        network: changed in place.
        source: URL (kept in torch's cache folder), file of a state dict, Lightning checkpoint of a module of ours, or
            checkpoint of CoViAR, TSM, mmaction2 or ResKD.
        sha256: digest the file must have, in hexadecimal.

    Returns:
        What was loaded and what was not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the digest differs, the file holds no weights, or none of them fits the network.
    """
    weights = _read_state_dict(_fetch(source, sha256))
    target = network.state_dict()
    chosen, report = _match(translate(weights, target), target, source)
    if not report.loaded:
        raise ValueError(
            f"{source}: none of its {len(weights)} entries fits the network; expected names like {_prefixes(target)}, "
            f"came {_prefixes(weights)}. Are these `weights` of another architecture?"
        )
    network.load_state_dict(chosen, strict=False)
    _log.log(logging.INFO if report.exact else logging.WARNING, "%s", report)
    return report


def read_tensors(path: str | Path, *, expected: str) -> Any:
    """Read what ``torch.save`` wrote, onto the CPU: tensors and plain values; nothing in the file is executed.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, of another kind, or holds code; the message says that ``expected`` was.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever unpickling and unzipping do
        raise ValueError(
            f"{path}: expected {expected}, came a file that is damaged, of another kind or holds code; "
            "fetch or train it again, or choose another"
        ) from error


def _match(
    translation: Translation, target: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], WeightReport]:
    """Choose what to load: the entries by name, fitted where they must be, and the report."""
    weights = translation.weights
    report = WeightReport(
        source,
        unexpected=[name for name in weights if name not in target],
        translated=translation.translated,
        left_out=translation.left_out,
    )
    chosen = {}
    for name, value in target.items():
        weight = _without_time(weights[name], value) if name in weights else None
        fitted = None if weight is None else _fitted(name, weight, value)
        if fitted is not None:
            chosen[name] = fitted
            as_it_is = fitted is weight and name not in translation.turned
            (report.loaded if as_it_is else report.adapted).append(name)
        elif name.endswith(OWN):
            continue
        elif weight is None:
            report.missing.append(name)
        else:
            report.mismatched.append(f"{name} {tuple(weights[name].shape)} -> {tuple(value.shape)}")
    return chosen, report


def _without_time(weight: Tensor, target: Tensor) -> Tensor:
    """(O, I, 1, h, w) -> (O, I, h, w) where the network runs kernels of length 1 frame by frame."""
    return weight.squeeze(2) if weight.ndim == 5 and target.ndim == 4 else weight


def _fitted(name: str, weight: Tensor, target: Tensor) -> Tensor | None:
    """``weight`` in the shape of ``target``: itself, or adapted, or None if it cannot be."""
    if weight.shape == target.shape:
        return weight
    adapt = next((adapt for fits, adapt in ADAPTATIONS if fits(name, weight, target)), None)
    return None if adapt is None else adapt(weight, target)


def _is_rgb_convolution(name: str, weight: Tensor, target: Tensor) -> bool:
    """Whether ``weight`` is a convolution over RGB that differs from ``target`` in input channels alone."""
    if weight.ndim < 4 or weight.ndim != target.ndim or weight.shape[1] != 3:
        return False
    return weight.shape[0] == target.shape[0] and weight.shape[2:] == target.shape[2:]


def _repeat_mean(weight: Tensor, target: Tensor) -> Tensor:
    """(O, 3, ...) -> (O, channels, ...), every channel the mean of the three."""
    return weight.mean(dim=1, keepdim=True).repeat_interleave(target.shape[1], dim=1)


def _is_flat_kernel(name: str, weight: Tensor, target: Tensor) -> bool:
    """Whether ``weight`` is a 2-D kernel that differs from ``target`` in length alone."""
    return target.ndim == 5 and weight.shape == target[:, :, 0].shape


def _inflate(weight: Tensor, target: Tensor) -> Tensor:
    """(O, I, h, w) -> (O, I, t, h, w), the same response to a still."""
    length = target.shape[2]
    return weight.unsqueeze(2).repeat(1, 1, length, 1, 1) / length


def _is_flat_bias(name: str, weight: Tensor, target: Tensor) -> bool:
    """Whether ``weight`` is a table of biases by offset in 2-D windows, ``target`` one of windows with time as well."""
    if not name.endswith("relative_position_bias_table") or weight.ndim != target.ndim:
        return False
    return weight.shape[1] == target.shape[1] and target.shape[0] % weight.shape[0] == 0


def _repeat_rows(weight: Tensor, target: Tensor) -> Tensor:
    """(offsets, heads) -> (offsets in time * offsets, heads), the same at every offset in time."""
    return weight.repeat(target.shape[0] // weight.shape[0], 1)


# What an entry of another shape has to be, and how it is fitted to the one of the network.
ADAPTATIONS: tuple[tuple[Callable[[str, Tensor, Tensor], bool], Callable[[Tensor, Tensor], Tensor]], ...] = (
    (_is_rgb_convolution, _repeat_mean),
    (_is_flat_kernel, _inflate),
    (_is_flat_bias, _repeat_rows),
)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict, out of a wrapper's entry and without a wrapper's prefix."""
    content = read_tensors(path, expected="weights saved by PyTorch")
    if isinstance(content, Mapping):
        content = next((content[entry] for entry in ENTRIES if entry in content), content)
    tensors = _tensors(content)
    if not tensors:
        raise ValueError(f"{path}: expected a state dict (tensors by name), came {type(content).__name__}")
    for prefix in PREFIXES:
        if inner := {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}:
            tensors = inner
    return tensors


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _prefixes(names: Iterable[str]) -> str:
    """``["a.b", "a.c", "d"]`` -> ``"a. (2), d (1)"``."""
    counts = Counter(name.split(".")[0] + "." * ("." in name) for name in names)
    return ", ".join(f"{prefix} ({count})" for prefix, count in counts.most_common(8))


def _fetch(source: str, sha256: str | None) -> Path:
    """The local file of ``source``, downloaded if it must be, its digest checked."""
    if "://" in source:
        return _download(source, sha256)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"`weights`: no such file: {source}")
    _check_digest(path, source, sha256)
    return path


def _download(url: str, sha256: str | None) -> Path:
    """Download ``url`` unless the cache has it. Under the final name stands a whole file or none."""
    path = _cached(url)
    if path.exists():
        _check_digest(path, str(path), sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _copy(url, part)
        _check_digest(part, url, sha256)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _cached(url: str) -> Path:
    """Where the file of ``url`` is kept: in torch's cache, apart from files of one name at another address."""
    address = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path(torch.hub.get_dir(), "checkpoints", f"{address}-{Path(urlsplit(url).path).name}")


def _copy(url: str, path: Path) -> None:
    """Copy what ``url`` serves to ``path``, with a progress bar, and check its length."""
    try:
        with urllib.request.urlopen(url) as response, path.open("wb") as file:
            total = int(response.headers.get("Content-Length", 0))
            with rich.progress.wrap_file(response, total, description=f"Downloading {url}") as stream:
                shutil.copyfileobj(stream, file)
    except OSError as error:
        raise OSError(f"`weights`: cannot download {url}: {error}") from error
    if total and path.stat().st_size != total:
        raise OSError(f"`weights`: {url} broke off: expected {total} bytes, came {path.stat().st_size}; try again")


def _check_digest(path: Path, source: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256.lower():
        raise ValueError(f"{source}: expected `sha256` {sha256}, came {digest}; the file is damaged or another one")
