"""A start from a network on another stream, against the filters' means by hand and outputs of whole networks."""

import pytest
import torch

from lightning_modules.networks import resnet10
from lightning_modules.networks.cross_modality import start_from


def make_network(in_channels: int, seed: int = 0, **options: object):
    torch.manual_seed(seed)
    network = resnet10(2, in_channels, width=4, input_norm=True, **options).eval()
    for buffer in network.buffers():  # statistics and counts that training has moved
        buffer.add_(torch.rand_like(buffer.float()).to(buffer.dtype))
    return network


def test_the_shared_channels_alone_give_the_same_answer():
    source, network = make_network(2), make_network(5, seed=1)
    start_from(network, source, num_shared=2)
    network.conv1.weight.data[:, 2:] = 0
    clip = torch.randn(3, 2, 5, 40, 40)
    torch.testing.assert_close(network(clip), source(clip[:, :, :2]))


def test_other_channels_get_the_mean_filter_and_keep_their_norm():
    source, network = make_network(2), make_network(5, seed=1)
    norm = {name: value.clone() for name, value in network.input_bn.state_dict().items()}
    start_from(network, source, num_shared=2)
    first, second = source.conv1.weight.unbind(1)
    for channel in (2, 3, 4):
        torch.testing.assert_close(network.conv1.weight[:, channel], (first + second) / 2)
        assert network.input_bn.running_var[channel] == norm["running_var"][channel]
        assert network.input_bn.weight[channel] == norm["weight"][channel]
    assert torch.equal(network.input_bn.running_var[:2], source.input_bn.running_var)
    assert torch.equal(network.input_bn.num_batches_tracked, source.input_bn.num_batches_tracked)
    for name, value in network.state_dict().items():
        if not name.startswith(("conv1", "input_bn")):
            assert torch.equal(value, source.state_dict()[name]), name


def test_as_many_channels_are_taken_over_as_they_are():
    source, network = make_network(3), make_network(3, seed=1)
    start_from(network, source)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("change", [{"width": 8}, {"input_norm": False}])
def test_other_architectures_are_refused_and_nothing_is_changed(change):
    source = make_network(2)
    network = resnet10(2, 5, **({"width": 4, "input_norm": True} | change))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="expected networks of one architecture but for their input"):
        start_from(network, source, num_shared=2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
