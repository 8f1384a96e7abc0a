import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.annotations import GroupedFolders

UCF = r"_g(\d+)_c"


@pytest.fixture
def grouped(tmp_path: Path, touch: Callable[..., None]) -> Path:
    for name, group, clip in itertools.product(("dive", "swim"), range(1, 13), range(1, 3)):
        touch(f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi")
    return tmp_path


def sides(annotations: GroupedFolders) -> dict[str, set[str]]:
    return {
        split: {Path(r.path).name.split("_g")[1][:2] for r in annotations.records(split)}
        for split in ("train", "val", "test")
    }


def test_no_group_on_two_sides_and_none_lost(grouped):
    annotations = GroupedFolders(str(grouped), UCF)
    groups = sides(annotations)
    assert [len(groups[s]) for s in ("train", "val", "test")] == [9, 1, 2]
    assert set.union(*groups.values()) == {f"{g:02d}" for g in range(1, 13)}
    assert sum(len(annotations.records(s)) for s in groups) == 48


def test_folds_test_every_group_once(grouped):
    folds = [sides(GroupedFolders(str(grouped), UCF, num_folds=5, fold=i)) for i in range(5)]
    tested = [group for fold in folds for group in sorted(fold["test"])]
    assert sorted(tested) == [f"{g:02d}" for g in range(1, 13)]
    for fold in folds:
        assert sum(len(groups) for groups in fold.values()) == 12
        assert fold["val"]


def test_seed_alone_decides(grouped):
    first = GroupedFolders(str(grouped), UCF, seed=1).groups
    assert first == GroupedFolders(str(grouped), UCF, seed=1).groups
    assert any(first != GroupedFolders(str(grouped), UCF, seed=s).groups for s in range(2, 6))


def test_errors_name_file_and_key(grouped, touch):
    touch("dive/odd.avi")
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


def test_a_class_without_a_group_in_training_says_what_to_change(tmp_path, touch):
    touch("dive/v_g1_c1.avi", "swim/v_g2_c1.avi", "swim/v_g3_c1.avi")
    seed = next(s for s in range(20) if GroupedFolders(str(tmp_path), UCF, seed=s).groups["val"] == ["1"])
    message = "split 'val': training has no class 'dive'; .*change seed, val_fraction, test_fraction or num_folds"
    with pytest.raises(ValueError, match=message):
        GroupedFolders(str(tmp_path), UCF, seed=seed).records("val")
