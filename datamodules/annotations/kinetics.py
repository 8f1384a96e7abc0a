"""Kinetics-400 (Kay et al., arXiv 1705.06950) and its subset Mini-Kinetics-200, by the published CSV files."""

from collections.abc import Iterator, Mapping, Sequence

from typing_extensions import override

from datamodules.annotations.list_files import read_csv, read_lines
from datamodules.annotations.missing_videos import accept_missing
from datamodules.annotations.official_splits import ListedVideo, ValidatedSplits
from datamodules.annotations.protocol import Split


class Kinetics400(ValidatedSplits):
    """Kinetics-400: `annotations/{train,val,test}.csv` and `<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4`.

    The CSV files have columns label, youtube_id, time_start, time_end (seconds) and split; that of the test split has
    no label in some releases. Videos lie flat or in folders of whatever names, and may be named by their id alone. The
    classes are those of the training CSV, sorted. A group is a YouTube video. The sizes of the splits differ between
    the releases and are not checked, the number of classes is.
    """

    default_lists = "annotations"
    files: Mapping[Split, Sequence[str]] = {
        "train": ("train.csv",),
        "val": ("val.csv", "validate.csv"),
        "test": ("test.csv",),
    }
    num_classes = 400

    @override
    def read_classes(self) -> list[str]:
        return sorted({name for video in self.listed("train") for name in video.classes or ()})

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        return list(self.read_rows(split))

    def read_rows(self, split: Split) -> Iterator[ListedVideo]:
        """The videos of the CSV file of a split; their group is their YouTube id."""
        columns = ("youtube_id", "time_start", "time_end", *(("label",) if split == "train" else ()))
        for where, row in read_csv(self.list_file(split), "lists", columns):
            clip = f"{row['youtube_id']}_{_seconds(row, 'time_start', where)}_{_seconds(row, 'time_end', where)}"
            label = row.get("label")
            yield ListedVideo((clip, row["youtube_id"]), (label,) if label else None, row["youtube_id"], where)


class MiniKinetics(Kinetics400):
    """Mini-Kinetics-200: the videos of Kinetics-400 that are in `annotations/{train,val}_ytid_list.txt`, an id a line.

    The lists are those of Xie et al. ("Rethinking Spatiotemporal Feature Learning", ECCV 2018; github.com/s9xie/
    Mini-Kinetics-200); labels and times come from `annotations/{train,val}.csv` of Kinetics-400, and ids that its
    release at hand lacks count as missing videos. Where there are no such lists, the CSV files are taken to be
    those of Mini-Kinetics itself. The classes are those of the training split, sorted; there is no test split.
    """

    num_classes = 200

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        path = self.lists / f"{split}_ytid_list.txt"
        rows = super().read_split(split)
        if not path.is_file():
            return rows
        ids = {line.text for line in read_lines(path, "lists")}
        unknown = sorted(ids - {video.group for video in rows})
        accept_missing(unknown, len(ids), self.max_missing, where=f"{path}, in {self.list_file(split)}")
        return [video for video in rows if video.group in ids]


def _seconds(row: dict[str, str], column: str, where: str) -> str:
    try:
        return f"{int(float(row[column])):06d}"
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: expected seconds in column {column}, got {row[column]!r}") from error
