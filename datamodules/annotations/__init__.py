"""Which videos there are, on which side of the split each stands, and what each shows.

`ClassFolders`, `GroupedFolders` and `VideoLists` read videos of one's own; the others the files that a data set is
distributed with.
"""

from datamodules.annotations.activitynet import ActivityNet
from datamodules.annotations.class_folders import ClassFolders
from datamodules.annotations.fcvid import FCVID
from datamodules.annotations.grouped_folders import GroupedFolders
from datamodules.annotations.hmdb51 import HMDB51
from datamodules.annotations.kinetics import Kinetics400, MiniKinetics
from datamodules.annotations.kinetics_subset import KineticsSubset
from datamodules.annotations.protocol import SPLITS, Annotations, Split, VideoRecord
from datamodules.annotations.something_something import SomethingSomethingV2
from datamodules.annotations.ucf101 import UCF101
from datamodules.annotations.video_files import VIDEO_EXTENSIONS, find_videos
from datamodules.annotations.video_lists import VideoLists

__all__ = [
    "FCVID",
    "HMDB51",
    "SPLITS",
    "UCF101",
    "VIDEO_EXTENSIONS",
    "ActivityNet",
    "Annotations",
    "ClassFolders",
    "GroupedFolders",
    "Kinetics400",
    "KineticsSubset",
    "MiniKinetics",
    "SomethingSomethingV2",
    "Split",
    "VideoLists",
    "VideoRecord",
    "find_videos",
]
