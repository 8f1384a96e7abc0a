"""The cheapest order of exits, by costs that are known."""

import torch

from lightning_modules.analysis.exit_order import cheapest_first
from lightning_modules.networks import resnet18, resnet50
from lightning_modules.networks.early_exit import EarlyExitNetwork, EarlyExitNetworks

NAMES = ("layer1", "layer2", "layer3", "final")


def order_of(**sizes: int) -> tuple[str, ...]:
    """Of the paper's networks on frames of these sides, in the order given; at 224 pixels exits add, in GMAC:

    vectors 1.08, 0.53, 0.53 and 0.41, residuals 1.12, 0.53, 0.53 and 0.41, I-frames 1.26, 1.96, 3.3 and 0.8.
    """
    with torch.device("meta"):
        networks = {
            "iframe": EarlyExitNetwork(resnet50(101), "resnet50"),
            "residual": EarlyExitNetwork(resnet18(101), "resnet18"),
            "mv": EarlyExitNetwork(resnet18(101, in_channels=2), "resnet18"),
        }
        streams = {s: torch.empty(1, 1, networks[s].in_channels, size, size) for s, size in sizes.items()}
        return cheapest_first(EarlyExitNetworks({s: networks[s] for s in sizes}), streams)


def test_the_papers_networks_come_in_the_papers_order() -> None:
    expected = tuple(f"{stream}/{name}" for stream in ("mv", "residual", "iframe") for name in NAMES)
    assert order_of(iframe=224, residual=224, mv=224) == expected


def test_a_cheap_first_exit_comes_before_another_stream() -> None:
    # Vectors at 256 pixels: 1.41 for the first exit, between the first two of I-frames.
    expected = ("iframe/layer1", *(f"mv/{name}" for name in NAMES), "iframe/layer2", "iframe/layer3", "iframe/final")
    assert order_of(mv=256, iframe=224) == expected
