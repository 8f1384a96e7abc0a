"""What a test of an experiment makes of a video, by its configuration; nothing of the data need be there."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule


@dataclass(frozen=True)
class ConfiguredViews:
    """What a test makes of a video.

    Args:
        shapes: by stream (T, C, H, W) of a view.
        number: of views.
    """

    shapes: Mapping[str, tuple[int, ...]]
    number: int

    @classmethod
    def of(
        cls,
        path: str | Path,
        experiment: Mapping[str, Any],
        streams: Collection[str],
        num_frames: int | None = None,
        size: int | None = None,
    ) -> "ConfiguredViews":
        """As the data of the experiment say, but for `num_frames` and `size`.

        Args:
            path: of the configuration, for messages.
            experiment: the configuration.
            streams: those that networks see.
            num_frames: T of a view; None: as the experiment tests.
            size: H and W; None: as the experiment tests.

        Raises:
            ValueError: the configuration has no data, or they lack a stream.
        """
        if "data" not in experiment:
            raise ValueError(f"{path}: expected `data`, whose tests say what a network sees, came {sorted(experiment)}")
        reader = _build_data(experiment["data"]).test_reader
        missing = [stream for stream in streams if stream not in reader.shapes]
        if missing:
            raise ValueError(f"{path}: expected `data.init_args.streams` to have {missing}, came {list(reader.shapes)}")
        shapes = {}
        for stream in streams:
            frames, channels, height, width = reader.shapes[stream]
            shapes[stream] = (num_frames or frames, channels, size or height, size or width)
        return cls(shapes, reader.num_views)


def _build_data(config: Mapping[str, Any]) -> Any:
    """The DataModule, without its annotations."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule)
    options = {**config.get("init_args", {}), "annotations": None}
    return parser.instantiate(parser.parse_object({"data": {**config, "init_args": options}})).data
