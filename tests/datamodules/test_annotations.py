import itertools
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from datamodules.annotations import Annotations, ClassFolders, GroupedFolders, VideoLists, find_videos


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    touch(tmp_path, "train/run/b.mp4", "train/run/a.avi", "train/jump/c.mp4", "train/jump/notes.txt")
    touch(tmp_path, "val/jump/d.mp4", "test/run/e.mp4", "train/.hidden/x.mp4", "train/run/.part.mp4")
    return tmp_path


@pytest.fixture
def grouped(tmp_path: Path) -> Path:
    for name, group, clip in itertools.product(("dive", "swim"), range(1, 13), range(1, 3)):
        touch(tmp_path, f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi")
    return tmp_path


UCF = r"_g(\d+)_c"


class TestClassFolders:
    def test_records_are_sorted_videos_with_stable_labels(self, folders):
        annotations = ClassFolders(str(folders))
        assert annotations.classes == ["jump", "run"]
        found = [(Path(r.path).name, r.label) for r in annotations.records("train")]
        assert found == [("c.mp4", 0), ("a.avi", 1), ("b.mp4", 1)]
        assert [r.label for r in annotations.records("val")] == [0]
        assert [r.label for r in annotations.records("test")] == [1]

    def test_classes_without_a_training_split(self, tmp_path):
        touch(tmp_path, "test/b/x.mp4", "val/a/x.mp4")
        assert ClassFolders(str(tmp_path)).classes == ["a", "b"]

    def test_nothing_is_read_before_it_is_needed(self):
        ClassFolders("/nowhere")

    def test_errors_name_file_and_key(self, folders):
        with pytest.raises(FileNotFoundError, match=r"/nowhere: no such folder \(config key: root\)"):
            ClassFolders("/nowhere").classes  # noqa: B018
        with pytest.raises(ValueError, match="split: expected one of train, val, test, got 'dev'"):
            ClassFolders(str(folders)).records("dev")  # type: ignore[arg-type]
        (folders / "train" / "sit").mkdir()
        with pytest.raises(ValueError, match="sit: expected videos of the class, found none"):
            ClassFolders(str(folders)).records("train")

    def test_a_class_that_training_does_not_have(self, folders):
        touch(folders, "test/fly/x.mp4")
        with pytest.raises(ValueError, match="training has no class 'fly'; add it to train"):
            ClassFolders(str(folders)).records("test")


class TestGroupedFolders:
    def sides(self, annotations: GroupedFolders) -> dict[str, set[str]]:
        return {
            split: {Path(r.path).name.split("_g")[1][:2] for r in annotations.records(split)}
            for split in ("train", "val", "test")
        }

    def test_no_group_on_two_sides_and_none_lost(self, grouped):
        annotations = GroupedFolders(str(grouped), UCF)
        sides = self.sides(annotations)
        assert [len(sides[s]) for s in ("train", "val", "test")] == [9, 1, 2]
        assert set.union(*sides.values()) == {f"{g:02d}" for g in range(1, 13)}
        assert sum(len(annotations.records(s)) for s in sides) == 48

    def test_folds_test_every_group_once(self, grouped):
        folds = [self.sides(GroupedFolders(str(grouped), UCF, num_folds=5, fold=i)) for i in range(5)]
        tested = [group for fold in folds for group in sorted(fold["test"])]
        assert sorted(tested) == [f"{g:02d}" for g in range(1, 13)]
        for fold in folds:
            assert sum(len(groups) for groups in fold.values()) == 12
            assert fold["val"]

    def test_seed_alone_decides(self, grouped):
        first = GroupedFolders(str(grouped), UCF, seed=1).groups
        assert first == GroupedFolders(str(grouped), UCF, seed=1).groups
        assert any(first != GroupedFolders(str(grouped), UCF, seed=s).groups for s in range(2, 6))

    def test_errors_name_file_and_key(self, grouped):
        touch(grouped, "dive/odd.avi")
        with pytest.raises(ValueError, match=r"odd\.avi: pattern .* does not match \(config key: pattern\)"):
            GroupedFolders(str(grouped), UCF).records("train")
        with pytest.raises(ValueError, match="pattern: expected exactly one group"):
            GroupedFolders(str(grouped), "abc")
        with pytest.raises(ValueError, match=r"pattern: expected a regular expression, got '_g\(x' \(missing \)"):
            GroupedFolders(str(grouped), "_g(x")
        with pytest.raises(ValueError, match=r"fold: expected 0 to num_folds - 1.* got 3 of 3"):
            GroupedFolders(str(grouped), UCF, num_folds=3, fold=3)
        (grouped / "dive/odd.avi").unlink()
        with pytest.raises(ValueError, match="num_folds: expected at most the 12 groups"):
            GroupedFolders(str(grouped), UCF, num_folds=13).records("train")
        with pytest.raises(ValueError, match="no group is left for split 'val'"):
            GroupedFolders(str(grouped), UCF, val_fraction=0).records("val")

    def test_a_class_without_a_group_in_training_says_what_to_change(self, tmp_path):
        touch(tmp_path, "dive/v_g1_c1.avi", "swim/v_g2_c1.avi", "swim/v_g3_c1.avi")
        seed = next(s for s in range(20) if GroupedFolders(str(tmp_path), UCF, seed=s).groups["val"] == ["1"])
        message = "split 'val': training has no class 'dive'; .*change seed, val_fraction, test_fraction or num_folds"
        with pytest.raises(ValueError, match=message):
            GroupedFolders(str(tmp_path), UCF, seed=seed).records("val")


class TestVideoLists:
    def test_names_numbers_and_folders_as_labels(self, tmp_path):
        (tmp_path / "train.txt").write_text("run/a b.avi run\njump/b.avi jump\n\n")
        (tmp_path / "test.txt").write_text("run/c.avi\n")
        annotations = VideoLists(str(tmp_path), train="train.txt", test="test.txt")
        assert annotations.classes == ["jump", "run"]
        records = annotations.records("train")
        assert [(Path(r.path).name, r.label) for r in records] == [("a b.avi", 1), ("b.avi", 0)]
        assert annotations.records("test")[0].label == 1

    def test_numbers_sort_by_value(self, tmp_path):
        (tmp_path / "train.txt").write_text("".join(f"v{i}.avi {i}\n" for i in (10, 9, 2, 1, 0)))
        assert VideoLists(str(tmp_path), train="train.txt").classes == ["0", "1", "2", "9", "10"]

    def test_numbered_classes_file_as_ucf101(self, tmp_path):
        (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n")
        (tmp_path / "train.txt").write_text("Archery/v.avi 2\nApplyEyeMakeup/w.avi 1\n")
        (tmp_path / "test.txt").write_text("Archery/x.avi\n")
        annotations = VideoLists(str(tmp_path), train="train.txt", test="test.txt", classes_file="classInd.txt")
        assert annotations.classes == ["ApplyEyeMakeup", "Archery"]
        assert [r.label for r in annotations.records("train")] == [1, 0]
        assert [r.label for r in annotations.records("test")] == [1]

    def test_plain_classes_file_counts_from_zero(self, tmp_path):
        (tmp_path / "classes.txt").write_text("zebra\nant walk\n")
        (tmp_path / "train.txt").write_text("a.avi 1\nb.avi 0\nc.avi zebra\n")
        annotations = VideoLists(str(tmp_path), train="train.txt", classes_file="classes.txt")
        assert annotations.classes == ["zebra", "ant walk"]
        assert [r.label for r in annotations.records("train")] == [1, 0, 0]

    def test_several_labels(self, tmp_path):
        (tmp_path / "train.txt").write_text("a.mp4 run,jump\nb.mp4 swim\n")
        annotations = VideoLists(str(tmp_path), train="train.txt", multi_label=True)
        assert annotations.classes == ["jump", "run", "swim"]
        assert [r.label for r in annotations.records("train")] == [(0, 1), (2,)]

    def test_errors_name_file_and_key(self, tmp_path):
        (tmp_path / "train.txt").write_text("a.avi run\n")
        (tmp_path / "test.txt").write_text("a.avi fly\n")
        annotations = VideoLists(str(tmp_path), train="train.txt", test="test.txt", val="val.txt")
        with pytest.raises(
            ValueError, match=r"test\.txt: training has no class 'fly'; .*config keys train or classes_file"
        ):
            annotations.records("test")
        with pytest.raises(FileNotFoundError, match=r"val\.txt: no such list file \(config key: val\)"):
            annotations.records("val")
        with pytest.raises(ValueError, match="config key: val"):
            VideoLists(str(tmp_path), train="train.txt").records("val")


def test_find_videos_searches_folders_and_keeps_what_has_none(tmp_path):
    touch(tmp_path, "a/2.mp4", "a/b/1.MKV", "a/x.txt", "empty/readme", "raw.264")
    paths = [str(tmp_path / name) for name in ("raw.264", "a", "empty", "gone.mp4")]
    names = [str(Path(p).relative_to(tmp_path)) for p in find_videos(paths)]
    assert names == ["raw.264", "a/2.mp4", "a/b/1.MKV", "empty", "gone.mp4"]


def test_config_files_choose_annotations_by_class_path(folders):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--annotations", type=Annotations)
    class_path = f"--annotations={ClassFolders.__module__}.ClassFolders"
    parsed = parser.instantiate_classes(parser.parse_args([class_path, f"--annotations.root={folders}"]))
    assert parsed.annotations.classes == ["jump", "run"]
