from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from defenses.diffusion.conditioning import Guided, NullClass, Pair, Unconditional
from defenses.diffusion.denoiser import NO_CLASS, EDMDenoiser, NoisePredictor
from defenses.diffusion.schedule import ContinuousVE, ContinuousVP
from defenses.networks.edm import EDM
from defenses.networks.ncsnpp import NCSNpp
from harness.errors import UserError

labels = st.lists(st.integers(-1, 3), min_size=1, max_size=6).map(torch.tensor)


class Recording(nn.Module):
    """eps = scale (1 + y) t x_t, with 0 for y = None, and the classes of each call."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.asked = scale, []

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.asked.append([None] * len(x_t) if y is None else y.tolist())
        factor = torch.ones_like(t) if y is None else 1 + y
        return self.scale * (factor * t)[:, None, None, None] * x_t


def inputs(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 1, 2, 2, generator=generator, dtype=torch.float64), torch.arange(1, rows + 1)


def rows_of(denoiser: Recording) -> list[int | None]:
    return [y for call in denoiser.asked for y in call]


@settings(deadline=None, max_examples=50)
@given(y=labels)
def test_a_pair_puts_each_row_to_one_network_and_keeps_their_order(y: Tensor) -> None:
    x, t = inputs(len(y))
    conditional, unconditional = Recording(), Recording(-1)
    found = Pair(conditional, unconditional).eps(x, t, y)
    for n, label in enumerate(y.tolist()):
        factor = -1 if label == NO_CLASS else 1 + label
        torch.testing.assert_close(found[n], factor * t[n] * x[n])
    assert rows_of(conditional) == [label for label in y.tolist() if label != NO_CLASS]
    assert rows_of(unconditional) == [None] * int((y == NO_CLASS).sum())
    assert all(conditional.asked + unconditional.asked), "a network was asked about no rows"


def test_a_pair_without_classes_asks_the_unconditional_network() -> None:
    (x, t), conditional = inputs(3), Recording()
    torch.testing.assert_close(Pair(conditional, Recording(2)).eps(x, t), 2 * t[:, None, None, None] * x)
    assert not conditional.asked


@settings(deadline=None, max_examples=50)
@given(y=labels, scale=st.sampled_from([0.0, 1.0, 1.5, 7.0]))
def test_guidance_moves_rows_with_a_class_away_from_the_unconditional_noise(y: Tensor, scale: float) -> None:
    x, t = inputs(len(y))
    pair = Pair(conditional := Recording(), Recording(-1))
    unconditional = pair.eps(x, t)
    expected = unconditional + scale * (pair.eps(x, t, y) - unconditional)
    conditional.asked.clear()
    torch.testing.assert_close(Guided(pair, scale).eps(x, t, y), expected)
    assert rows_of(conditional) == y[y != NO_CLASS].tolist()
    assert all(conditional.asked), "the network was asked about no rows"


def test_guidance_without_classes_is_the_unconditional_noise() -> None:
    (x, t), denoiser = inputs(3), Recording()
    torch.testing.assert_close(Guided(denoiser, 4).eps(x, t), t[:, None, None, None] * x)
    assert rows_of(denoiser) == [None] * 3


def test_guidance_over_a_pair_is_twice_differentiable() -> None:
    x, t = inputs(3)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 1)).double()
    pair = Pair(_Plain(network), _Plain(nn.Sequential(network, nn.Tanh())))
    guided, y = Guided(pair, 1.5), torch.tensor([2, NO_CLASS, 0])
    assert torch.autograd.gradcheck(lambda x: guided.eps(x, t, y), x.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: guided.eps(x, t, y), x)


class _Plain(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(x_t)


@settings(deadline=None, max_examples=50)
@given(y=labels)
def test_a_null_class_stands_for_none(y: Tensor) -> None:
    x, t = inputs(len(y))
    found, none = NullClass(Recording(), 10).eps(x, t, y), NullClass(Recording(), 10).eps(x, t)
    for n, label in enumerate(y.tolist()):
        torch.testing.assert_close(found[n], (1 + (10 if label == NO_CLASS else label)) * t[n] * x[n])
        torch.testing.assert_close(none[n], 11 * t[n] * x[n])


def tiny_ncsnpp() -> NoisePredictor:
    options = dict(image_size=8, channels=1, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
    return NoisePredictor(NCSNpp(init_scale=1.0, **options), ContinuousVP())


def tiny_edm(label_dim: int) -> EDMDenoiser:
    network = EDM(8, 1, label_dim, model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=())
    for position, parameter in enumerate(network.parameters()):
        wave = torch.sin(torch.arange(parameter.numel()) + position + label_dim)
        parameter.data = 0.2 * wave.reshape(parameter.shape)
    return EDMDenoiser(network, ContinuousVE())


@pytest.mark.parametrize("make", [tiny_ncsnpp, lambda: tiny_edm(0)], ids=["ncsnpp", "edm"])
def test_a_network_without_classes_is_asked_without_them_and_refuses_them(make) -> None:
    denoiser = make()
    x, t = torch.ones(2, 1, 8, 8), torch.tensor([0.5, 0.1])
    answer = Unconditional(denoiser).eps(x, t, torch.tensor([NO_CLASS, NO_CLASS]))
    assert torch.equal(answer, denoiser.eps(x, t))
    assert torch.equal(answer, Unconditional(denoiser).eps(x, t))
    with pytest.raises(UserError, match="unconditional"):
        Unconditional(denoiser).eps(x, t, torch.tensor([NO_CLASS, 0]))


def test_the_pair_of_edm_has_two_networks_and_no_zero_one_hot() -> None:
    conditional, unconditional = tiny_edm(10), tiny_edm(0)
    x, t, y = torch.linspace(-1, 1, 192).view(3, 1, 8, 8), torch.tensor([0.1, 0.5, 3.0]), torch.tensor([4, NO_CLASS, 9])
    pair = Pair(conditional, unconditional)
    found = pair.eps(x, t, y)
    torch.testing.assert_close(found[1:2], unconditional.eps(x[1:2], t[1:2]))
    torch.testing.assert_close(found[[0, 2]], conditional.eps(x[[0, 2]], t[[0, 2]], y[[0, 2]]))
    assert not torch.allclose(found[1], conditional.eps(x, t, y)[1])
    count = sum(p.numel() for denoiser in (conditional, unconditional) for p in denoiser.parameters())
    assert sum(p.numel() for p in pair.parameters()) == count
