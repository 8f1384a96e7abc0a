"""The command `streamkd export`: trained networks as files that other programs run, checked, and what to know of them.

<output>/<stream>.onnx, .pt2               of one network
<output>/<stream>_<exit>.onnx, .pt2        of networks with exits, each up to one exit
<output>/....json                          beside either: stream, classes, input, normalisation
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from datamodules.stream_views import HIGH
from datamodules.transforms import normalisation
from datamodules.whole_file import open_whole, written_whole
from lightning_modules.configured_views import ConfiguredViews
from lightning_modules.deployed_networks import DeployedNetwork, read_deployed
from lightning_modules.experiment_file import read_experiment
from lightning_modules.export_formats import FORMATS, INPUT, OUTPUT, Format, compare, trace
from lightning_modules.networks.used_part import used_part
from lightning_modules.run_directory import RunDirectory

Shape = tuple[int, ...]


def export_networks(
    checkpoint: str,
    *,
    output: str = "exported",
    formats: Sequence[Format] = ("onnx", "pt2"),
    stream: str | None = None,
    exit: str | None = None,
    config: str | None = None,
    num_frames: int | None = None,
    size: int | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Write the networks of a checkpoint as ONNX and by torch.export, compared with the original on random clips.

    Batches may be of any size; the shape of clips is fixed. Of networks with exits, each exit becomes a file of its
    own, that computes nothing behind it. A JSON file beside them has classes, input and normalisation. The files of a
    network are written whole or not at all.

    Args:
        checkpoint: of a RecognitionModule, a distilled student or networks with exits; of weighted inference, scales
            and threshold come into the JSON file.
        output: the folder for the files.
        formats: onnx (with the extra `export`) and pt2 (torch.export).
        stream: the network on this stream alone; None: all.
        exit: this exit alone, e.g. layer2 or final; None: all.
        config: YAML file of the experiment, whose tests say how many frames a clip has; None: the run's own, in the
            folder above that of the checkpoint.
        num_frames: of a clip, instead of the configuration's.
        size: side of the frames in pixels, instead of that of the frames the network was trained on.
        tolerance: difference from the original's logits, as a fraction of the largest, that is refused beyond.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ModuleNotFoundError: the packages for ONNX are not there.
        ValueError: no such stream or exit, nothing that gives the shape of clips, or an export that differs.
    """
    if not formats:
        raise ValueError(f"--formats: expected some of {list(FORMATS)}, came none")
    for name in formats:
        FORMATS[name].check_packages()
    networks = read_deployed(checkpoint, stream, exit)
    known = num_frames is not None and all(size or network.size for network in networks)
    views = _configured(checkpoint, config, {network.stream for network in networks}, known=known)
    for network in networks:
        shape = _shape(network, views.get(network.stream, ()), num_frames, size)
        _write(network, shape, Path(output), formats, tolerance, checkpoint)


def _configured(checkpoint: str, config: str | None, streams: Iterable[str], *, known: bool) -> Mapping[str, Shape]:
    """(T, C, H, W) by stream, of a test of the experiment; none where no configuration is named, there or needed."""
    path = Path(config) if config else RunDirectory(Path(checkpoint).resolve().parent.parent).config
    if not config and (known or not path.is_file()):
        return {}
    return ConfiguredViews.of(path, read_experiment(path), list(streams)).shapes


def _shape(network: DeployedNetwork, configured: Shape, num_frames: int | None, size: int | None) -> Shape:
    """(T, C, H, W): as the options say, else as the network was trained, else as the configuration has it."""
    frames = num_frames or next(iter(configured), None)
    sides = (size, size) if size else network.size or configured[2:]
    if frames is None or not sides:
        missing = "--num_frames" if frames is None else "--size"
        raise ValueError(
            f"{network.name}: neither the checkpoint nor a configuration beside it says what clips it takes: "
            f"give {missing}, or --config"
        )
    return (frames, int(network.network.in_channels), *sides)  # type: ignore[arg-type]


def _write(
    network: DeployedNetwork,
    shape: Shape,
    folder: Path,
    formats: Sequence[Format],
    tolerance: float,
    checkpoint: str,
) -> None:
    """All files of one network, or none."""
    program = trace(used_part(network.network, torch.zeros(1, *shape)), shape)
    said = []
    with ExitStack() as files:
        for name in dict.fromkeys(formats):
            target = folder / f"{network.name}.{name}"
            part = files.enter_context(written_whole(target))
            FORMATS[name].write(program, part)
            agreement = compare(FORMATS[name].load(part), network.original, shape)
            if not agreement.within(tolerance):
                raise ValueError(
                    f"{target}: not written, it differs from the original by {agreement}; expected at most "
                    f"{tolerance:g} of the largest (--tolerance)"
                )
            said.append(f"{target}: {part.stat().st_size / 1e6:.3g} MB, greatest difference {agreement}")
        about = files.enter_context(open_whole(folder / f"{network.name}.json"))
        json.dump(_about(network, shape, checkpoint), about, indent=2, ensure_ascii=False)
    print("\n".join(said), flush=True)


def _about(network: DeployedNetwork, shape: Shape, checkpoint: str) -> dict[str, Any]:
    """What a user of the files has to know; the axes of a clip are frames, channels, height and width."""
    mean, std = normalisation(network.stream.removesuffix(HIGH))
    return {
        "checkpoint": checkpoint,
        "stream": network.stream,
        "input": {"name": INPUT, "dtype": "float32", "shape": ["batch", *shape]},
        "normalisation": {"scale": 1 / 255, "mean": mean, "std": std},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", network.network.num_classes]},
        **network.facts,
    }
