"""Flow distillation on the demo: what teaches the P-stream, what it sees, how it starts; two streams beside three.

Every network is that of `configs/demo/p_stream.yaml`, or `flow.yaml`'s, with the data, epochs (12) and optimizer of
`mv.yaml`, `residual.yaml` and `iframe.yaml`, whose runs by `make demo-figures` have to be there. Epochs and the weight
of features are chosen, scales of fused networks fitted, on the validation split. Each seed has data, weights and order
of its own. Resumable: a run that is finished is not repeated. Run by `make demo-study`.
"""

from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from seeded_runs import DemoSeed, Score, Scores, score_columns, spread, study, top1

from lightning_modules.analysis.cost import cost_of
from lightning_modules.networks import resnet10

EPOCHS = (
    "--trainer.max_epochs=12",
    "--trainer.check_val_every_n_epoch=1",
    "--model.lr_scheduler.init_args.T_max=12",
)
P_STREAM = "mv+residual"
WEIGHTS = (1.0, 50.0)  # of features; MARS has 50
CHANNELS = {"flow": 2, "mv": 2, "residual": 3, P_STREAM: 5, "iframe": 3}
FUSED = {
    "I + P: labels": ("iframe", P_STREAM),
    "I + P: features": ("iframe", P_STREAM),
    "I + P: both": ("iframe", P_STREAM),
    "I + MV + R": ("iframe", "mv", "residual"),
    "2 I + MV + R": ("iframe", "mv", "residual"),
    "I + flow": ("iframe", "flow"),
}


def teach(
    unit: DemoSeed, run: str, features: float, logits: float, *, stream: str = P_STREAM, start: bool = False
) -> Score:
    """A P-stream: weights of features and logits, what it sees, whether it starts from its teacher."""
    data = [f"--data.streams=[{stream},flow]", f"--data.flow.cache={unit.folder / 'flow-cache'}"]
    if not features and not logits:
        data = [f"--data.streams=[{stream}]", "--data.privileged=[]"]
    return unit.score(
        "p_stream",
        run,
        *EPOCHS,
        *data,
        f"--model.stream={stream}",
        f"--model.network.in_channels={CHANNELS[stream]}",
        f"--model.teacher={unit.best('flow')}",
        f"--model.feature_weight={features}",
        f"--model.logit_weight={logits}",
        f"--model.start_from_teacher={str(start).lower()}",
    )


def fused(unit: DemoSeed, networks: dict[str, str]) -> tuple[str, str]:
    """What says in `ip_tsn.yaml` that networks of several streams are fused; by stream the run of each."""
    sources = ", ".join(f"{stream}: {unit.best(source)}" for stream, source in networks.items())
    return f"--model.networks={{{sources}}}", f"--data.streams=[{','.join(networks)}]"


def fuse(unit: DemoSeed, run: str, networks: dict[str, str]) -> Score:
    """Networks of several streams, by runs, with scales fitted on the validation split."""
    return unit.score("ip_tsn", run, *fused(unit, networks))


def fuse_as_coviar(unit: DemoSeed, run: str, fitted: str, scales: dict[str, float]) -> Score:
    """The networks of the run `fitted`, with other scales."""
    folder = unit.folder / run
    if not (folder / "test.json").exists():
        checkpoint = torch.load(unit.best(fitted))
        names = checkpoint["weighted_inference"]["exit_names"]
        checkpoint["state_dict"]["scales"][-1] = torch.tensor([scales[name.split("/")[0]] for name in names])
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, folder / "fixed.ckpt")
        options = fused(unit, {stream: stream for stream in scales})
        for verb in ("validate", "test"):
            unit.command(verb, *unit.options("ip_tsn", run), *options, f"--ckpt_path={folder / 'fixed.ckpt'}")
    return Score(top1(folder / "test.json"), top1(folder / "validate.json"))


def measure(unit: DemoSeed) -> Scores:
    """Top-1 of networks and of their combinations."""
    cache = f"--data.flow.cache={unit.folder / 'flow-cache'}"
    scores = {"flow": unit.score("flow", "flow", *EPOCHS, cache, in_tests=["--data.flow={cache: null}"])}
    for stream in ("mv", "residual", "iframe"):
        scores[stream] = unit.score(stream, stream)
    scores["P: labels"] = teach(unit, "p-labels", 0, 0)
    features = {weight: teach(unit, f"p-features-{weight:g}", weight, 0) for weight in WEIGHTS}
    best = max(WEIGHTS, key=lambda weight: features[weight].validation)
    scores |= {f"P: features x {weight:g}": score for weight, score in features.items()}
    scores["P: features, chosen weight"] = features[best]
    for stream in ("mv", "residual"):
        scores[f"{stream}: features"] = teach(unit, f"{stream}-features-{best:g}", best, 0, stream=stream)
    scores["P: logits"] = teach(unit, "p-logits", 0, 1)
    scores["P: both"] = teach(unit, "p-both", best, 1)
    scores["P: both, teacher start"] = teach(unit, "p-both-start", best, 1, start=True)
    taught = {"labels": "p-labels", "features": f"p-features-{best:g}", "both": "p-both"}
    for name, run in taught.items():
        scores[f"I + P: {name}"] = fuse(unit, f"i-{run}", {"iframe": "iframe", P_STREAM: run})
    scores["I + MV + R"] = fuse(unit, "i-mv-r", {"mv": "mv", "residual": "residual", "iframe": "iframe"})
    scores["2 I + MV + R"] = fuse_as_coviar(unit, "2i-mv-r", "i-mv-r", {"mv": 1, "residual": 1, "iframe": 2})
    scores["I + flow"] = fuse(unit, "i-flow", {"iframe": "iframe", "flow": "flow"})
    return scores


def multiply_adds(streams: Sequence[str]) -> float:
    """Millions for a video of 3 segments at 112 pixels, by one network for each stream."""
    with torch.device("meta"):
        return sum(
            cost_of(
                resnet10(12, CHANNELS[stream], width=16, input_norm=stream != "iframe"),
                torch.empty(1, 3, CHANNELS[stream], 112, 112),
            ).total
            / 1e6
            for stream in streams
        )


def show(scores: Sequence[Scores]) -> None:
    """Networks, and their combinations with what they cost."""
    networks = Table("network", "validation top-1 %", "test", "each seed", "- P by labels")
    combined = Table("fused", "validation top-1 %", "test", "each seed", "M multiply-adds a video")
    for name in scores[0]:
        found = [score[name] for score in scores]
        if name in FUSED:
            combined.add_row(name, *score_columns(found), f"{multiply_adds(FUSED[name]):.0f}")
        else:
            gains = [score[name].test - score["P: labels"].test for score in scores]
            networks.add_row(name, *score_columns(found), spread(gains))
    for table in (networks, combined):
        Console(width=130).print(table)


if __name__ == "__main__":
    study(__doc__ or "", "flow_study", measure, show)
