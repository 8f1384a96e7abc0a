"""Lazy against full evaluation: each video's logits at its exit, and nothing read or computed behind it."""

import time
from collections import Counter
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from datamodules.clip import LazyClip, LazyClipBatch
from datamodules.failure import Failure
from lightning_modules.ensemble import CONNECTIONS, average_views, combine, connect, exit_at, take
from lightning_modules.lazy_inference import lazy_infer
from lightning_modules.networks import EarlyExitNetwork, EarlyExitNetworks, SegmentClassifier, TeamNet, resnet10
from lightning_modules.networks.resnet import ResNet

TEAM = "iframe+mv+residual"
CHANNELS = {"mv": 2, "residual": 3, "iframe": 3, TEAM: 8}
SHAPES = {stream: (2, channels, 32, 32) for stream, channels in CHANNELS.items()}
ORDERS = {
    "mv first": ["mv", "residual", "iframe"],
    "iframe first": ["iframe", "mv", "residual"],
    "interleaved": [f"{s}/{e}" for e in ("layer1", "layer2", "layer3", "final") for s in ("mv", "iframe", "residual")],
    "TEAM-Net": [TEAM],
}
SEGMENTS = dict.fromkeys(("stem", "layer1", "layer2"), partial(SegmentClassifier, num_segments=2))
NUM_VIDEOS, NUM_VIEWS = 7, 2


class Source:
    """Views that are there already; `bad` streams cannot be read."""

    def __init__(self, views: dict[str, Tensor], bad: str | None = None) -> None:
        self.views, self.bad = views, bad
        self.asked: list[str] = []
        self.is_open = True
        self.decode_seconds = self.cut_seconds = 0.0
        self.corrupt_frames = 0

    def read(self, stream: str) -> Tensor | Failure:
        assert self.is_open
        self.asked.append(stream)
        self.decode_seconds += 2.0  # imagined: more than the test takes
        self.cut_seconds += 1.0
        return Failure("bad.mp4", "damaged") if stream == self.bad else self.views[stream]

    def close(self) -> None:
        self.is_open = False


def normalise(stream: str, frames: Tensor) -> Tensor:
    return frames.float() / 64 - 2


def lazy_batch(sources: list[Source]) -> LazyClipBatch:
    clips = [LazyClip(s, torch.tensor(i % 5), 10 + i, f"{i}.mp4", 0.5) for i, s in enumerate(sources)]
    return LazyClipBatch(clips, SHAPES, normalise, num_views=NUM_VIEWS)


@pytest.fixture(scope="module")
def views() -> dict[str, Tensor]:
    """(NUM_VIDEOS, NUM_VIEWS, T, C, H, W) uint8 by stream."""
    generator = torch.Generator().manual_seed(0)
    return {
        stream: torch.randint(0, 256, (NUM_VIDEOS, NUM_VIEWS, *shape), dtype=torch.uint8, generator=generator)
        for stream, shape in SHAPES.items()
    }


def sources_of(views: dict[str, Tensor], bad: dict[int, str] | None = None) -> list[Source]:
    return [Source({stream: view[n] for stream, view in views.items()}, (bad or {}).get(n)) for n in range(NUM_VIDEOS)]


@pytest.fixture(scope="module")
def members(views) -> dict[str, EarlyExitNetwork]:
    """Three networks, and one on the streams of all three."""
    torch.manual_seed(1)
    trio = {s: EarlyExitNetwork(resnet10(5, CHANNELS[s], width=8, input_norm=True)) for s in ORDERS["mv first"]}
    for gain, network in enumerate(trio.values(), 1):  # so that deeper exits are surer
        for depth, classifier in enumerate([*network.classifiers.values(), network.backbone], 1):
            layer = classifier.fc if isinstance(classifier, ResNet) else classifier.head.fc
            layer.weight.data.mul_(2 * gain * depth)
    return trio | {TEAM: team_net(views[TEAM])}


@torch.no_grad()
def team_net(views: Tensor) -> EarlyExitNetwork:
    """Its classifiers see pooled features, much alike in noise: their logits are spread out as far as others are."""
    backbone = TeamNet(*(resnet10(5, channels, width=8, input_norm=True) for channels in (3, 2, 3)))
    network = EarlyExitNetwork(backbone, SEGMENTS).eval()
    logits = network(normalise(TEAM, views.flatten(0, 1)))
    heads = [[classifier.fc] for classifier in network.classifiers.values()]
    heads.append([part.fc for part in backbone.streams.values()])
    for depth, layers in enumerate(heads):
        of_exit = logits[:, depth]
        layers[0].bias -= of_exit.mean(dim=0)
        for layer in layers:
            layer.weight *= 2 * (depth + 1) / of_exit.std(dim=0).mean()
            layer.bias *= 2 * (depth + 1) / of_exit.std(dim=0).mean()
    return network


def build(members: dict[str, EarlyExitNetwork], order: str) -> EarlyExitNetworks:
    streams = dict.fromkeys(name.split("/")[0] for name in ORDERS[order])
    return EarlyExitNetworks({s: members[s] for s in streams}, order=ORDERS[order]).eval()


@torch.no_grad()
def evaluate_fully(networks: EarlyExitNetworks, weights: Tensor, views: dict[str, Tensor]) -> Tensor:
    """Outputs of all exits for all videos, (K, N, num_classes)."""
    logits = networks({stream: normalise(stream, view.flatten(0, 1)) for stream, view in views.items()})
    return combine(average_views(logits, NUM_VIEWS).transpose(0, 1), weights)


def weights_for(networks: EarlyExitNetworks, connection: str) -> Tensor:
    num_exits = len(networks.exit_names)
    scales = torch.rand(num_exits, num_exits, generator=torch.Generator().manual_seed(2)).tril() / num_exits
    return connect(connection, scales)


def spread_threshold(outputs: Tensor) -> float:
    """One at which videos leave at many exits, and none is within rounding of it."""
    confidence = outputs.softmax(dim=-1).amax(dim=-1)
    levels = confidence.flatten().sort().values
    candidates = [float(a + b) / 2 for a, b in pairwise(levels) if b - a > 1e-4]
    return max(candidates, key=lambda level: len(exit_at(outputs, level).unique()))


@pytest.mark.parametrize("batch_size", [1, 3, NUM_VIDEOS])
@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_video_gets_its_exits_logits_of_a_full_evaluation(members, views, order, connection, batch_size):
    networks = build(members, order)
    weights = weights_for(networks, connection)
    outputs = evaluate_fully(networks, weights, views)
    threshold = spread_threshold(outputs)
    exits = exit_at(outputs, threshold)
    assert len(exits.unique()) >= 3
    sources = sources_of(views)
    for first in range(0, NUM_VIDEOS, batch_size):
        chosen = slice(first, first + batch_size)
        result = lazy_infer(networks, weights, threshold, lazy_batch(sources[chosen]))
        assert result.places.tolist() == exits[chosen].tolist()
        assert result.exits == [networks.exit_names[place] for place in exits[chosen].tolist()]
        torch.testing.assert_close(result.logits, take(outputs, exits)[chosen], rtol=1e-4, atol=1e-5)
    for source, place in zip(sources, exits.tolist(), strict=True):
        due = dict.fromkeys(name.split("/")[0] for name in networks.exit_names[: place + 1])
        assert source.asked == list(due), "each stream once, when its first exit is due"
        assert not source.is_open


@pytest.mark.parametrize("order", ["mv first", "TEAM-Net"])
def test_threshold_1_is_the_full_ensemble_and_0_the_first_exit(members, views, order):
    networks = build(members, order)
    weights = weights_for(networks, "scaled")
    outputs = evaluate_fully(networks, weights, views)
    for threshold, place in ((1.0, -1), (0.0, 0)):
        result = lazy_infer(networks, weights, threshold, lazy_batch(sources_of(views)))
        torch.testing.assert_close(result.logits, outputs[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["mv first", "TEAM-Net"])
def test_who_has_left_is_computed_no_further(members, views, order):
    networks = build(members, order)
    weights = weights_for(networks, "unscaled")
    outputs = evaluate_fully(networks, weights, views)
    threshold = spread_threshold(outputs)
    frames: Counter[str] = Counter()
    hooks = [
        classifier.register_forward_hook(lambda m, args, out, name=f"{s}/{depth}": frames.update({name: len(args[0])}))
        for s, network in networks.networks.items()
        for depth, classifier in network.classifiers.items()
    ]
    places = lazy_infer(networks, weights, threshold, lazy_batch(sources_of(views))).places
    for hook in hooks:
        hook.remove()
    for place, name in enumerate(networks.exit_names):
        if not name.endswith("final"):
            assert frames[name] == NUM_VIEWS * int((places >= place).sum())


@pytest.mark.parametrize("order", ORDERS)
def test_a_stream_that_was_read_ahead_is_not_read_again(members, views, order):
    networks = build(members, order)
    weights, first = weights_for(networks, "scaled"), networks.exit_names[0].split("/")[0]
    threshold = spread_threshold(evaluate_fully(networks, weights, views))
    expected = lazy_infer(networks, weights, threshold, lazy_batch(sources_of(views)))
    sources = sources_of(views)
    batch = lazy_batch(sources)
    batch.ahead = {first: views[first].flatten(0, 1)}
    result = lazy_infer(networks, weights, threshold, batch.to("cpu"))
    assert torch.equal(result.logits, expected.logits)
    assert torch.equal(result.places, expected.places)
    assert all(first not in source.asked for source in sources)
    assert result.decode_seconds.max() < expected.decode_seconds.max()


def test_some_of_the_videos_that_were_read_ahead(views):
    batch = lazy_batch(sources_of(views))
    batch.ahead = {"mv": views["mv"].flatten(0, 1)}
    clips, read = batch.load("mv", [1, 4])
    assert torch.equal(clips, normalise("mv", views["mv"][[1, 4]].flatten(0, 1)))
    assert read == [1, 4]


@pytest.mark.parametrize("order", ["mv first", "interleaved", "TEAM-Net"])
def test_a_video_found_unreadable_on_the_way_is_a_failure_and_the_others_go_on(members, views, order):
    networks = build(members, order)
    weights = weights_for(networks, "scaled")
    outputs = evaluate_fully(networks, weights, views)
    finished = []
    bad = dict.fromkeys((0, 3, 5), TEAM) if order == "TEAM-Net" else {0: "mv", 3: "residual", 5: "iframe"}
    batch = lazy_batch(sources_of(views, bad=bad))
    batch.on_read = finished.append
    result = lazy_infer(networks, weights, 1.0, batch)
    readable = [1, 2, 4, 6]
    torch.testing.assert_close(result.logits, outputs[-1, readable], rtol=1e-4, atol=1e-5)
    assert result.paths == batch.paths == [f"{n}.mp4" for n in readable]
    assert batch.indices.tolist() == [10 + n for n in readable]
    assert batch.labels.tolist() == [n % 5 for n in readable]
    assert len(batch.failures) == len(result.failures) == 3
    assert finished == [batch]


def test_a_batch_of_none_that_can_be_read(members, views):
    networks = build(members, "mv first")
    weights = weights_for(networks, "scaled")
    all_bad = lazy_batch(sources_of(views, bad=dict.fromkeys(range(NUM_VIDEOS), "residual")))
    for batch in (lazy_batch([]), all_bad):
        result = lazy_infer(networks, weights, 1.0, batch)
        assert result.logits.shape == (0, 5)
        assert len(batch) == len(result.paths) == len(result.compute_seconds) == 0
    assert len(all_bad.failures) == NUM_VIDEOS


def test_seconds_are_accounted_for(members, views):
    networks = build(members, "mv first")
    began = time.perf_counter()
    result = lazy_infer(networks, weights_for(networks, "scaled"), 1.0, lazy_batch(sources_of(views)))
    wall = time.perf_counter() - began
    assert result.decode_seconds.tolist() == [6.5] * NUM_VIDEOS, "with the plan's"
    assert result.cut_seconds.tolist() == [3.0] * NUM_VIDEOS
    assert result.seconds.tolist() == [9.5] * NUM_VIDEOS
    # What is not reading is computing; reading is imagined here, and 9 s long.
    assert 0 < float(result.compute_seconds.sum()) + NUM_VIDEOS * 9.0 <= wall


def test_weights_of_other_exits_are_refused(members, views):
    with pytest.raises(ValueError, match=r"expected weights of \(12, 12\) for 12 exits, came .*11"):
        lazy_infer(build(members, "mv first"), torch.eye(11), 0.5, lazy_batch(sources_of(views)))
