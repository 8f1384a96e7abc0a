"""Which videos there are, on which side of the split each stands, and what each shows.

`ClassFolders`, `GroupedFolders` and `VideoLists` read videos of one's own; the others the files that a data set is
distributed with.
"""

from datamodules.annotations.class_folders import ClassFolders
from datamodules.annotations.grouped_folders import GroupedFolders
from datamodules.annotations.protocol import SPLITS, Annotations, Split, VideoRecord
from datamodules.annotations.video_files import VIDEO_EXTENSIONS, find_videos
from datamodules.annotations.video_lists import VideoLists

__all__ = [
    "SPLITS",
    "VIDEO_EXTENSIONS",
    "Annotations",
    "ClassFolders",
    "GroupedFolders",
    "Split",
    "VideoLists",
    "VideoRecord",
    "find_videos",
]
