"""On real files, and with a real Trainer where Lightning has a say."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import Precision

from datamodules import clip_dataset, index_cache
from datamodules.annotations import ClassFolders, VideoLists
from datamodules.bitstream import UnreadableVideoError, encode_frames
from datamodules.clip import ClipBatch
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.failure_ledger import TooManyBadVideosError
from datamodules.transforms import PixelCrop, normalise

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*log_every_n_steps")


def make_data(root, *, rank: int = 0, ranks: int = 1, **options) -> CompressedVideoDataModule:
    options = {"streams": ["mv", "residual", "iframe"], "size": 16, "batch_size": 2} | options
    data = CompressedVideoDataModule(ClassFolders(str(root)), **options)
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=ranks, state=SimpleNamespace(stage=None), precision_plugin=Precision()
    )
    return data


def epoch_of(data: CompressedVideoDataModule, epoch: int = 0) -> list[ClipBatch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def samples(batches: list[ClipBatch]) -> dict[str, list]:
    """What the network would see, by path (one view per video)."""
    return {
        path: [stream[i] for stream in batch.streams.values()] + [batch.labels[i], batch.substituted[i]]
        for batch in batches
        for i, path in enumerate(batch.paths)
    }


def assert_same(ours: dict[str, list], theirs: dict[str, list]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(a, b) for path in ours for a, b in zip(ours[path], theirs[path], strict=True))


class Recorder(LightningModule):
    """A network on one stream that remembers what it was given."""

    def __init__(self, stream: str = "mv") -> None:
        super().__init__()
        self.stream, self.seen = stream, []
        self.layer = torch.nn.LazyLinear(2)

    def logits(self, batch: ClipBatch) -> torch.Tensor:
        self.seen.append(batch)
        return self.layer(batch.streams[self.stream].flatten(1))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.logits(batch), batch.labels)

    def validation_step(self, batch, batch_idx):
        self.logits(batch)

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def make_trainer(tmp_path, **options) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": "callbacks" in options, "max_epochs": 2}
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", **quiet | options)


class TestDeterminism:
    def test_workers_change_nothing(self, video_root):
        here = epoch_of(make_data(video_root))
        there = epoch_of(make_data(video_root, num_workers=2))
        assert [b.paths for b in here] == [b.paths for b in there]
        assert_same(samples(here), samples(there))

    def test_ranks_change_nothing(self, video_root):
        alone = epoch_of(make_data(video_root, batch_size=4), 1)
        shards = [epoch_of(make_data(video_root, rank=r, ranks=2, batch_size=2), 1) for r in range(2)]
        assert len(alone) == 2
        for batch, *parts in zip(alone, *shards, strict=True):
            assert_same(samples([batch]), samples(parts))

    def test_epochs_and_seeds_differ(self, video_root):
        data = make_data(video_root)
        first, second = samples(epoch_of(data, 0)), samples(epoch_of(data, 1))
        other = samples(epoch_of(make_data(video_root, seed=1), 0))
        path = next(iter(first))
        assert_same(first, samples(epoch_of(data, 0)))
        assert not torch.equal(first[path][2], second[path][2])
        assert not torch.equal(first[path][2], other[path][2])

    def test_the_global_random_state_is_left_alone(self, video_root):
        before = torch.get_rng_state()
        epoch_of(make_data(video_root))
        epoch_of(make_data(video_root, num_workers=1))
        assert torch.equal(torch.get_rng_state(), before)


class TestLoaders:
    def test_an_epoch_has_every_video_once(self, video_root):
        paths = [path for batch in epoch_of(make_data(video_root)) for path in batch.paths]
        assert len(paths) == len(set(paths)) == 10

    def test_incomplete_batches(self, video_root):
        assert [len(b) for b in epoch_of(make_data(video_root, batch_size=4))] == [4, 4]
        assert [len(b) for b in epoch_of(make_data(video_root, batch_size=4, drop_last=False))] == [4, 4, 2]
        assert [len(b) for b in epoch_of(make_data(video_root, batch_size=40))] == [10], "never the only one"

    def test_batches_have_compact_streams_and_right_labels(self, video_root):
        data = make_data(video_root, size={"mv": 8, "residual": 16, "iframe": 24}, num_segments=2)
        batch = epoch_of(data)[0]
        assert {name: tuple(s.shape) for name, s in batch.streams.items()} == {
            "mv": (2, 2, 2, 8, 8),
            "residual": (2, 2, 3, 16, 16),
            "iframe": (2, 2, 3, 24, 24),
        }
        assert {s.dtype for s in batch.streams.values()} == {torch.uint8}
        assert [data.classes[label] for label in batch.labels] == [p.split("/")[-2] for p in batch.paths]
        records = ClassFolders(str(video_root)).records("train")
        assert [records[i].path for i in batch.indices] == batch.paths
        assert (batch.seconds > 0).all()

    def test_coviars_test_protocol(self, video_root):
        data = make_data(video_root, test_segments=25, test_crops=10)
        (batch, *_) = data.test_dataloader()
        assert batch.num_views == 10
        assert batch.streams["mv"].shape == (10, 25, 2, 16, 16)
        (val, *_) = data.val_dataloader()
        assert val.streams["mv"].shape == (2, 3, 2, 16, 16), "validation stays cheap"

    @pytest.mark.parametrize(
        ("options", "videos"),
        [
            ({"test_segments": 25, "test_crops": 10}, 1),  # 120 frames in a training batch, 250 in a video
            ({"test_crops": 10}, 4),
            ({"test_clips": 3}, 13),
            ({"test_segments": 1}, 40),
            ({"test_segments": 25, "test_crops": 10, "eval_batch_size": 7}, 7),
        ],
    )
    def test_test_batches_hold_no_more_frames_than_training_batches(self, video_root, options, videos):
        data = make_data(video_root, predict_paths=["x.mp4"], num_segments=3, batch_size=40, **options)
        assert data.test_dataloader().batch_size == data.predict_dataloader().batch_size == videos
        assert data.val_dataloader().batch_size == options.get("eval_batch_size", 40)

    def test_evaluation_shards_are_exact(self, video_root):
        shards = [list(make_data(video_root, rank=r, ranks=4).val_dataloader()) for r in range(4)]
        paths = [path for shard in shards for batch in shard for path in batch.paths]
        assert sorted(paths) == sorted(r.path for r in ClassFolders(str(video_root)).records("val"))

    def test_fit_may_iterate_the_validation_split(self, video_root):
        data = make_data(video_root, fit_split="val")
        fitted, validated = samples(epoch_of(data)), samples(list(data.val_dataloader()))
        assert_same(fitted, validated)
        assert len(fitted) == 6

    def test_training_videos_without_augmentation(self, video_root):
        first, second = (epoch_of(make_data(video_root, augment=False, batch_size=4), e) for e in (0, 1))
        assert [len(batch) for batch in first] == [4, 4, 2]
        assert_same(samples(first), samples(second))

    def test_the_order_may_change_where_views_do_not(self, video_root):
        data = make_data(video_root, augment=False, shuffle=True, batch_size=4)
        first, second = (epoch_of(data, epoch) for epoch in (0, 1))
        assert [len(batch) for batch in first] == [4, 4], "drop_last"
        assert [batch.paths for batch in first] != [batch.paths for batch in second]
        in_order = samples(epoch_of(make_data(video_root, augment=False)))
        for seen in (samples(first), samples(second)):
            assert_same(seen, {path: in_order[path] for path in seen})

    def test_views_may_change_where_the_order_does_not(self, video_root):
        data = make_data(video_root, shuffle=False, batch_size=4)
        first, second = (samples(epoch_of(data, epoch)) for epoch in (0, 1))
        assert [*first] == [*second] == [record.path for record in data.records("train")]
        assert not any(torch.equal(first[path][2], second[path][2]) for path in list(first)[:3])

    def test_several_labels(self, video_root):
        (video_root / "list.txt").write_text("train/run/0.mp4 a,c\ntrain/run/1.mp4 b\n")
        annotations = VideoLists(str(video_root), train="list.txt", multi_label=True)
        data = CompressedVideoDataModule(annotations, ["iframe"], size=16, augment=False)
        (batch,) = data.train_dataloader()
        assert batch.labels.tolist() == [[1, 0, 1], [0, 1, 0]]

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning needs an accelerator")
    def test_batches_are_pinned(self, video_root):
        assert epoch_of(make_data(video_root, pin_memory=True))[0].streams["mv"].is_pinned()

    @pytest.mark.parametrize("kept", [False, True])
    def test_a_video_is_indexed_once_whatever_worker_reads_it(self, video_root, tmp_path, monkeypatch, kept):
        log, build = tmp_path / "log", index_cache.build_index

        def logged(path):
            with open(log, "a") as file:
                file.write(f"{path}\n")
            return build(path)

        monkeypatch.setattr(index_cache, "build_index", logged)
        options = {"num_workers": 2, "drop_last": False, "index_cache": str(tmp_path / "kept") if kept else None}
        data = make_data(video_root, **options)
        loader = data.train_dataloader()
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            assert sum(map(len, loader)) == 10
        list(data.test_dataloader())
        built = log.read_text().splitlines()
        assert sorted(built) == sorted({*built})
        assert len(built) == 10 + len(data.records("test"))

    def test_setup_opens_no_video(self, video_root, monkeypatch):
        monkeypatch.setattr("datamodules.index_cache.build_index", None)
        data = make_data(video_root, predict_paths=[str(video_root)])
        for stage in ("fit", "validate", "test", "predict"):
            data.setup(stage)


def test_lengths_and_frame_sizes_can_be_kept_from_the_network(video_root):
    encode_frames((np.zeros((20, 64, 3), np.uint8) for _ in range(9)), video_root / "train/run/flat.mp4")
    data = make_data(video_root, streams=["mv"], window=8, pixel_crop=PixelCrop(40, 20), drop_last=False)
    batches = epoch_of(data)
    assert {batch.streams["mv"].shape[2:] for batch in batches} == {(2, 32, 16)}
    assert [failure.path.split("/")[-1] for batch in batches for failure in batch.failures] == ["flat.mp4"]
    assert sum(int(batch.substituted.sum()) for batch in batches) == 1
    assert data.test_reader.sampler.window == 8
    assert next(iter(data.test_dataloader())).streams["mv"].shape[2:] == (2, 32, 16)


class TestBadVideos:
    @pytest.fixture
    def torn(self, video_root):
        path = video_root / "train/run/3.mp4"
        path.write_bytes(path.read_bytes()[:300])
        return str(path)

    def test_a_substitute_depends_on_the_sample_alone(self, video_root, torn):
        runs = [
            epoch_of(make_data(video_root, **options), 1)
            for options in ({"batch_size": 2}, {"batch_size": 5, "num_workers": 1})
        ]
        found = []
        for batches in runs:
            (batch,) = [b for b in batches if b.substituted.any()]
            assert [f.path for f in batch.failures] == [torn]
            (i,) = batch.substituted.nonzero().flatten().tolist()
            assert batch.paths[i] != torn
            assert batch.paths[i].split("/")[-2] == ["jump", "run"][batch.labels[i]]
            found.append((batch.paths[i], batch.streams["residual"][i]))
            assert sum(len(b) for b in batches) == 10
        assert found[0][0] == found[1][0]
        assert torch.equal(found[0][1], found[1][1])

    def test_substitutes_vary_over_epochs(self, video_root, torn):
        data = make_data(video_root)
        epochs = [epoch_of(data, epoch) for epoch in range(6)]
        chosen = {p for e in epochs for b in e for p, s in zip(b.paths, b.substituted, strict=True) if s}
        assert len(chosen) > 1

    @pytest.mark.parametrize("augment", [True, False])
    def test_the_main_process_counts_and_stops(self, video_root, torn, tmp_path, caplog, augment):
        data = make_data(video_root, max_bad_videos=1, num_workers=1, augment=augment)
        make_trainer(tmp_path, limit_val_batches=0).fit(Recorder(), data)
        (warning,) = [record.getMessage() for record in caplog.records if "unreadable" in record.getMessage()]
        assert warning.startswith("unreadable video in split 'train': ")
        assert torn in warning
        assert [f.path for f in data.failures] == [torn]
        strict = make_data(video_root, max_bad_videos=0, augment=augment)
        with pytest.raises(TooManyBadVideosError, match=r"at most 0 may be; .*max_bad_videos"):
            make_trainer(tmp_path, limit_val_batches=0).fit(Recorder(), strict)

    @pytest.mark.parametrize(("limit", "accepted"), [(0.05, 1), (0.35, 3), (2, 2)])
    def test_limits(self, video_root, limit, accepted):
        assert make_data(video_root, max_bad_videos=limit)._new_ledger("train").limit == accepted

    @pytest.mark.parametrize("augment", [True, False])
    def test_nothing_to_train_on(self, video_root, tmp_path, monkeypatch, augment):
        monkeypatch.setattr(clip_dataset, "_MAX_SUBSTITUTES", 2)
        for path in (video_root / "train").rglob("*.mp4"):
            path.write_bytes(b"")
        data = make_data(video_root, max_bad_videos=99, augment=augment)
        with pytest.raises(UnreadableVideoError, match="nor any other of its training batch"):
            make_trainer(tmp_path, limit_val_batches=0).fit(Recorder(), data)

    def test_fitting_on_validation_data_passes_empty_batches_on(self, video_root, tmp_path):
        class Gatherer(Recorder):
            def training_step(self, batch, batch_idx):
                return self.logits(batch).sum()

        for name in ("jump/0", "jump/1"):
            (video_root / f"val/{name}.mp4").write_bytes(b"")
        model, data = Gatherer(), make_data(video_root, fit_split="val", max_bad_videos=0)
        make_trainer(tmp_path, limit_val_batches=0, max_epochs=1).fit(model, data)
        assert [len(batch) for batch in model.seen] == [0, 2, 2]

    def test_damaged_frames_may_be_passed_over_counted_and_named(self, video_root, damage, tmp_path, caplog):
        path = video_root / "val/jump/0.mp4"
        damage(path, 3)  # a P-frame of the first of three GOPs
        strict, lenient = (make_data(video_root, on_corrupt=policy) for policy in ("raise", "skip"))
        make_trainer(tmp_path).validate(Recorder(), strict, verbose=False)
        assert [failure.path for failure in strict.failures] == [str(path)]
        assert "damaged at GOP 0, position 3" in strict.failures[0].reason
        model = Recorder()
        make_trainer(tmp_path).validate(model, lenient, verbose=False)
        assert (lenient.failures, lenient.damaged) == ([], [str(path)])
        counted = {
            p: n for batch in model.seen for p, n in zip(batch.paths, batch.corrupt_frames.tolist(), strict=True)
        }
        assert counted.pop(str(path)) == 1, "frames 5, 13 and 21 are read, of which the first is behind the damage"
        assert set(counted.values()) == {0}
        assert "damaged frames in split 'val'" in caplog.text

    def test_evaluation_leaves_them_out_and_lists_them(self, video_root, tmp_path, caplog):
        for name in ("jump/0", "jump/1"):
            (video_root / f"val/{name}.mp4").write_bytes(b"")
        data, model = make_data(video_root), Recorder()
        make_trainer(tmp_path).validate(model, data, verbose=False)
        assert "unreadable video in split 'val'" in caplog.text
        assert [len(batch) for batch in model.seen] == [0, 2, 2]
        assert model.seen[0].streams["mv"].shape == (0, 3, 2, 16, 16)
        assert [len(batch.failures) for batch in model.seen] == [2, 0, 0]
        assert [f.path[-10:] for f in data.failures] == ["jump/0.mp4", "jump/1.mp4"]

    def test_an_evaluation_of_nothing_is_an_error(self, video_root, tmp_path):
        for path in (video_root / "test").rglob("*.mp4"):
            path.write_bytes(b"")
        with pytest.raises(TooManyBadVideosError, match="4 of the 4 videos of split 'test'"):
            make_trainer(tmp_path).test(Recorder(), make_data(video_root), verbose=False)


class TestPredict:
    def test_lists_whatever_it_is_given(self, video_root, b_frame_video, tmp_path):
        (video_root / "junk.mp4").write_bytes(b"junk")
        (tmp_path / "empty").mkdir()
        paths = [str(b_frame_video), str(video_root / "test"), str(video_root / "junk.mp4")]
        paths += [str(tmp_path / "empty"), "/nowhere.mp4"]
        data = CompressedVideoDataModule(
            streams=["mv"], size=16, batch_size=2, predict_paths=paths, reencode_dir=str(tmp_path / "re")
        )
        model = Recorder()
        make_trainer(tmp_path).predict(model, data, return_predictions=False)
        read = [path for batch in model.seen for path in batch.paths]
        failed = [failure.path for batch in model.seen for failure in batch.failures]
        assert read[0] == str(b_frame_video)
        assert len(read) == 5
        assert failed == paths[2:]
        assert all((batch.labels == -1).all() for batch in model.seen)

    def test_stand_ins_go_to_the_users_cache_by_default(self, b_frame_video, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        data = CompressedVideoDataModule(streams=["mv"], size=16, predict_paths=[str(b_frame_video)])
        (batch,) = data.predict_dataloader()
        assert batch.paths == [str(b_frame_video)]
        assert len(list((tmp_path / "cache/streamkd/reencoded").glob("phone-*.mp4"))) == 1

    def test_classes_come_from_the_checkpoint(self):
        data = CompressedVideoDataModule(predict_paths=["x.mp4"])
        data.setup("predict")
        data.load_state_dict({"classes": ["jump", "run"]})
        assert data.classes == ["jump", "run"]
        assert data.num_classes == 2


class TestWithLightning:
    def test_streams_arrive_normalised(self, video_root, tmp_path):
        model = Recorder()
        data = make_data(video_root)
        make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0, max_epochs=1).fit(model, data)
        batch, plain = model.seen[-1], epoch_of(data)[0]
        assert batch.paths == plain.paths
        for name, stream in batch.streams.items():
            assert stream.dtype == torch.float32
            assert torch.equal(stream, normalise(name, plain.streams[name]))

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_a_resumed_run_sees_the_same_data(self, video_root, tmp_path, num_workers):
        def fit(resume=None):
            model = Recorder()
            saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
            trainer = make_trainer(tmp_path, callbacks=[saver], limit_val_batches=0)
            trainer.fit(model, make_data(video_root, num_workers=num_workers), ckpt_path=resume)
            return model.seen

        undisturbed = fit()
        for step in (3, 5):
            resumed = fit(tmp_path / f"step={step}.ckpt")
            assert [b.paths for b in resumed] == [b.paths for b in undisturbed[step:]]
            for ours, theirs in zip(resumed, undisturbed[step:], strict=True):
                assert_same(samples([ours]), samples([theirs]))

    def test_checkpoints_carry_classes_and_frame_sizes(self, video_root, tmp_path):
        trainer, model = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1), Recorder()
        trainer.fit(model, make_data(video_root))
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        stored = torch.load(tmp_path / "x.ckpt", weights_only=True)
        sizes = {stream: [16, 16] for stream in ("iframe", "mv", "residual")}
        assert stored["CompressedVideoDataModule"] == {"classes": ["jump", "run"], "sizes": sizes}
        (video_root / "train/run").rename(video_root / "train/walk")
        (video_root / "test/run").rename(video_root / "test/walk")
        with pytest.raises(ValueError, match=r"checkpoint knows 2 classes, jump, run; the data has 2, jump, walk"):
            make_trainer(tmp_path).test(model, make_data(video_root), ckpt_path=tmp_path / "x.ckpt")

    def test_overfitting_on_a_few_batches(self, video_root, tmp_path):
        model = Recorder()
        with pytest.warns(UserWarning, match="overfit"):
            make_trainer(tmp_path, overfit_batches=1).fit(model, make_data(video_root))
        trained = [tuple(batch.paths) for batch in model.seen if "/train/" in batch.paths[0]]
        assert len(trained) == 2
        assert len(set(trained)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": ["mv", "depth"]}, "streams: expected one of iframe, rgb, mv, residual, flow, got 'depth'"),
        ({"streams": ["mv+depth"]}, "streams: expected one of iframe, rgb, mv, residual, flow, got 'depth'"),
        ({"streams": ["mv+mv"]}, "streams: expected different streams joined by '\\+', got 'mv\\+mv'"),
        ({"streams": []}, "streams: expected a list of different stream names"),
        ({"streams": ["mv", "mv"]}, "streams: expected a list of different stream names"),
        ({"streams": "mv"}, "streams: expected a list"),
        ({"size": {"mv": 8}}, "size: expected an entry for each of mv, residual, iframe"),
        ({"fit_split": "test"}, "fit_split: expected one of train, val, got 'test'"),
        ({"test_crops": 5}, "test_crops: expected one of 1, 3, 10, got 5"),
        ({"sampling": "uniform"}, "sampling: expected one of segments, dense"),
        ({"num_segments": 0}, "num_segments: expected at least 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size: expected at least 1, got 0"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"scales": [1.2]}, r"scales: expected numbers from 0 to 1, got 1\.2"),
        ({"flip": -1}, "flip: expected numbers from 0 to 1, got -1"),
        ({"reference": "next"}, "reference: expected one of iframe, previous"),
    ],
)
def test_wrong_options_name_their_key(options, message):
    with pytest.raises(ValueError, match=message):
        make_data("/nowhere", **options)


def test_missing_data_names_its_key(video_root):
    with pytest.raises(ValueError, match="annotations: expected where the videos are"):
        CompressedVideoDataModule().setup("fit")
    with pytest.raises(ValueError, match="predict_paths: expected files or folders"):
        CompressedVideoDataModule().setup("predict")
    with pytest.raises(FileNotFoundError, match="config key: root"):
        make_data("/nowhere").setup("fit")
