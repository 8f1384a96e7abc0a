"""The loss and its second derivatives against closed forms, and that measuring leaves no trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.analysis.loss_surface import LossSurface, cross_entropy
from lightning_modules.networks import resnet10
from lightning_modules.networks.early_exit import EarlyExitNetwork


def clips(num: int, channels: int = 2, size: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num, 2, channels, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def tiny_resnet(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Width 2, with running statistics and norm weights that are not the identity, in train mode."""
    torch.manual_seed(0)
    network = resnet10(3, 2, width=2, input_norm=True).to(dtype)
    network(clips(8, dtype=dtype) + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def state_of(module: nn.Module) -> tuple[list[Tensor], list[Tensor | None], list[bool], Tensor]:
    tensors = [tensor.detach().clone() for tensor in [*module.parameters(), *module.buffers()]]
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    return tensors, gradients, [m.training for m in module.modules()], torch.random.get_rng_state()


def assert_same(before: tuple, after: tuple) -> None:
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])


def softmax_regression(num: int = 7, features: int = 4, classes: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(features, classes, bias=False).double()
    return model, torch.randn(num, features).double(), torch.arange(num) % classes


def test_softmax_regression_by_its_formula() -> None:
    """H = mean of (diag(p) - p p^T) kron x x^T over samples; batches of unequal size count by sample."""
    model, x, labels = softmax_regression()
    p = model(x).softmax(1).detach()
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nab,ni,nj->aibj", blocks, x, x).reshape(12, 12) / len(x)
    surface = LossSurface(model, [(x[:5], labels[:5]), (x[5:], labels[5:])])
    eye = torch.eye(12).double()
    products = torch.stack([surface.hessian_vector_product(v) for v in eye])
    torch.testing.assert_close(products, expected)
    direction = torch.arange(12.0).double()
    assert surface.curvatures([direction]) == pytest.approx([float(direction @ expected @ direction)])
    assert surface.loss() == pytest.approx(F.cross_entropy(model(x), labels).item())
    assert surface.num_samples == 7


def test_loss_at_another_point_is_that_of_a_model_with_other_parameters() -> None:
    network = tiny_resnet()
    surface = LossSurface(network, [(clips(5), torch.arange(5) % 3)])
    other = tiny_resnet().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.1
        expected = F.cross_entropy(other(clips(5)), torch.arange(5) % 3)
    assert surface.loss(1.1 * surface.point) == pytest.approx(float(expected), rel=1e-12)


def test_products_of_a_resnet_by_finite_differences_of_its_gradient() -> None:
    network = tiny_resnet()
    labels = torch.arange(6) % 3
    surface = LossSurface(network, [(clips(6)[:4], labels[:4]), (clips(6)[4:], labels[4:])])
    vector = torch.randn(surface.num_parameters, generator=torch.Generator().manual_seed(2)).double()

    def gradient(step: float) -> Tensor:
        other = tiny_resnet().eval()
        with torch.no_grad():
            for parameter, part in zip(other.parameters(), surface.unflatten(vector).values(), strict=True):
                parameter += step * part
        F.cross_entropy(other(clips(6)), labels).backward()
        return torch.cat([parameter.grad.flatten() for parameter in other.parameters()])

    expected = (gradient(1e-6) - gradient(-1e-6)) / 2e-6
    torch.testing.assert_close(surface.hessian_vector_product(vector), expected, rtol=1e-5, atol=1e-6)
    assert surface.curvatures([vector])[0] == pytest.approx(float(vector @ expected), rel=1e-5)


def test_float32_agrees_with_float64() -> None:
    labels = torch.arange(6) % 3
    single = LossSurface(tiny_resnet().float(), [(clips(6).float(), labels)])
    double = LossSurface(tiny_resnet(), [(clips(6), labels)])
    vector = torch.randn(single.num_parameters, generator=torch.Generator().manual_seed(2))
    products = [surface.hessian_vector_product(vector.to(surface.point)).double() for surface in (single, double)]
    assert float((products[0] - products[1]).norm() / products[1].norm()) < 1e-3


def test_chosen_parameters_alone() -> None:
    """A block of the Hessian: of internal classifiers beside a frozen backbone, all exits but the last."""
    torch.manual_seed(0)
    network = EarlyExitNetwork(resnet10(3, 2, width=2), exits="linear").double()
    names = [name for name, _ in network.named_parameters() if name.startswith("classifiers.layer1")]
    batch = (clips(6), torch.arange(6) % 3)
    surface = LossSurface(network, [batch], parameters=names, loss=lambda z, y: cross_entropy(z[:, :-1], y))
    alone = EarlyExitNetwork(network.backbone, exits="linear").double()
    alone.load_state_dict(network.state_dict())
    features = dict(alone.backbone.forward_features(batch[0]))["layer1"].mean((1, 3, 4)).detach()
    head = nn.Linear(*features.shape[1:], 3).double()
    weight, bias = surface.unflatten(surface.point).values()
    head.load_state_dict({"weight": weight, "bias": bias})
    expected = LossSurface(head, [(features, batch[1])])
    vector = torch.arange(float(surface.num_parameters)).double()
    # The loss is the mean of three exits, of which one depends on these parameters.
    torch.testing.assert_close(surface.hessian_vector_product(vector), expected.hessian_vector_product(vector) / 3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_leaves_no_trace_and_works_where_gradients_are_off(mode: type) -> None:
    network = tiny_resnet(torch.float32)
    network.layer2.eval()  # flags of all sorts
    network(clips(4).float()).sum().backward()
    batch = (clips(4).float(), torch.arange(4) % 3)
    before = state_of(network)
    with mode():
        surface = LossSurface(network, [batch])
        surface.loss(surface.point + 1)
        product = surface.hessian_vector_product(surface.point)
        surface.curvatures([product])
    assert_same(before, state_of(network))
    assert product.norm() > 0


def test_leaves_no_trace_after_an_exception() -> None:
    network = tiny_resnet(torch.float32)
    batch = (clips(4).float(), torch.arange(4) % 3)
    surface = LossSurface(network, [batch, batch])
    surface.batches = [batch, (batch[0][:, :, :1], batch[1])]  # a channel is missing in the second
    before = state_of(network)
    for measure in (surface.loss, surface.hessian_vector_product, lambda point: surface.curvatures([point])):
        with pytest.raises(ValueError, match="channels"):
            measure(surface.point)
        assert_same(before, state_of(network))


def test_buffers_that_a_model_writes_to_in_eval_mode_are_kept() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting()
    LossSurface(model, [(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))]).hessian_vector_product(torch.ones(6))
    assert model.calls == 0


def test_cross_entropy_of_several_exits_is_the_mean_of_theirs() -> None:
    logits, labels = torch.randn(4, 3, 5), torch.tensor([0, 1, 4, 2])
    expected = torch.stack([F.cross_entropy(logits[:, k], labels) for k in range(3)]).mean()
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    torch.testing.assert_close(cross_entropy(logits, F.one_hot(labels, 5).float()), expected)


def test_a_linear_loss_has_no_curvature() -> None:
    model = nn.Linear(3, 2)
    surface = LossSurface(model, [(torch.ones(2, 3), torch.zeros(2))], loss=lambda z, _: z.mean())
    assert not surface.hessian_vector_product(torch.ones(8)).any()


def test_refusals() -> None:
    model, x, labels = softmax_regression()
    with pytest.raises(ValueError, match=r"`parameters`.*\['weight'\].*\['bias'\]"):
        LossSurface(model, [(x, labels)], parameters=["bias"])
    with pytest.raises(ValueError, match="at least one sample"):
        LossSurface(model, [])
    with pytest.raises(ValueError, match="finite loss, came nan"):
        LossSurface(model, [(x * float("nan"), labels)])
