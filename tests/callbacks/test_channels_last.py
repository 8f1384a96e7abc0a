"""Channels-last weights: the same results, another layout, activations that follow."""

import copy

import lightning.pytorch as pl
import torch
from torch import nn

from callbacks.channels_last import ChannelsLast
from lightning_modules.networks import resnet10


class Wrapper(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = resnet10(num_classes=5, width=8, input_norm=True).eval()


def test_weights_and_activations_change_layout_and_results_do_not() -> None:
    torch.manual_seed(0)
    plain = Wrapper()
    converted = copy.deepcopy(plain)
    ChannelsLast().setup(pl.Trainer(logger=False), converted, "fit")
    clip = torch.randn(2, 3, 3, 40, 40)
    layouts = []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, _, out: (
            layouts.append(out.is_contiguous(memory_format=torch.channels_last))
            if isinstance(module, nn.Conv2d)
            else None
        )
    )
    try:
        out = converted.network(clip)
    finally:
        hook.remove()
    assert layouts
    assert all(layouts)
    torch.testing.assert_close(out, plain.network(clip), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(converted.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class BuiltInSetup(pl.LightningModule):
    """Has its network when callbacks have been set up, as modules do that read it out of other runs' checkpoints."""

    def setup(self, stage: str) -> None:
        self.network = nn.Conv2d(3, 4, 3)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.saw_channels_last = self.network(batch).is_contiguous(memory_format=torch.channels_last)
        return self.network(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_networks_that_are_built_in_setup() -> None:
    module, quiet = BuiltInSetup(), {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[ChannelsLast()], **quiet
    )
    loader = torch.utils.data.DataLoader(torch.ones(1, 3, 8, 8))
    trainer.fit(module, loader)
    assert module.saw_channels_last
