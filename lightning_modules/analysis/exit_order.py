"""In which order to run the exits of several networks: the cheapest first."""

from collections.abc import Mapping

from torch import Tensor

from lightning_modules.analysis.cost import cost_of
from lightning_modules.networks.early_exit import EarlyExitNetworks


def cheapest_first(networks: EarlyExitNetworks, streams: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of all exits: next is always the one that adds the fewest multiply-adds to what has run.

    Decoding does not count. With backbones of about one size this finishes one stream before it begins another, whose
    first exit has a stem to pay.

    Args:
        networks: the networks, best on the meta device, where this costs nothing.
        streams: example clips (B, T, C, H, W) float by stream.
    """
    adds = cost_of(networks, streams).exits
    waiting = {stream: [name for name in adds if name.startswith(f"{stream}/")] for stream in networks.networks}
    order: list[str] = []
    while waiting:
        stream = min(waiting, key=lambda stream: adds[waiting[stream][0]])
        order.append(waiting[stream].pop(0))
        if not waiting[stream]:
            del waiting[stream]
    return tuple(order)
