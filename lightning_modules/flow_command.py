"""The command `streamkd flow`: computes the optical flow of an experiment's videos before it trains."""

from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.fill_flow import FilledFlow, fill_flow
from lightning_modules.data_command import Split, data_parser, parse_data, print_failures

_DESCRIPTION = "Compute the optical flow of an experiment's videos before it trains, into `data.flow.cache`."


def fill_flow_cache(args: list[str]) -> None:
    """Compute and keep the optical flow that an experiment's data need; continues where it was interrupted.

    Args:
        args: the command line, see `--help`.

    Raises:
        ValueError: the data read no flow, or have no cache for it.
        ModuleNotFoundError: OpenCV is not there.
    """
    parser = data_parser("flow", _DESCRIPTION, CompressedVideoDataModule, splits="those that are read as flow")
    options = parse_data(parser, args)
    data: CompressedVideoDataModule = options.data
    splits = options.splits or _splits_with_flow(data)
    paths = [record.path for split in splits for record in data.records(split)]
    filled = fill_flow(data.reader, paths, num_workers=options.num_workers)
    _report(filled, data)


def _splits_with_flow(data: CompressedVideoDataModule) -> list[Split]:
    """Privileged flow is read in fit alone."""
    return [data.fit_split] if "flow" in data.privileged else ["train", "val", "test"]


def _report(filled: FilledFlow, data: CompressedVideoDataModule) -> None:
    print_failures(filled.failures)
    print(
        f"{data.reader.flow.cache}: optical flow of {filled.made + filled.kept} videos, {filled.made} made now, "
        f"{len(filled.failures)} unreadable, {filled.num_bytes / 1e9:.3g} GB",
        flush=True,
    )
