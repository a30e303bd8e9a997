"""FlowViT computes what torch's own transformer layers compute, as a denoiser of the scale that defenses work on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NO_CLASS, adapted, knows_no_class
from defenses.diffusion.schedule import discrete_vp
from defenses.networks.flow_vit import FlowViT
from harness.errors import UserError
from harness.randomness import fenced
from helpers.originals import assert_twice_differentiable

SIZES = {"image_size": 12, "patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "hidden": 24, "num_classes": 3}


class Reference(nn.Module):
    """The layers of the published network, of torch's modules: u_t, t, y -> u."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 9, 8))
        self.patch_embed = nn.Conv2d(1, 8, 4, stride=4)
        layers = [nn.TransformerEncoderLayer(8, 2, 24, activation="gelu", batch_first=True) for _ in range(2)]
        self.transformer = nn.Sequential(*layers)
        self.unpatch = nn.ConvTranspose2d(8, 1, 4, stride=4)
        self.y_encoder = nn.Embedding(4, 16)

    def forward(self, u_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.patch_embed(u_t).flatten(2).transpose(1, 2) + self.pos_embed
        frequencies = torch.exp(-torch.log(torch.tensor(10_000.0)) / 7 * torch.arange(8))
        angles = t[:, None] * frequencies
        times = torch.cat([angles.sin(), angles.cos()], 1).view(-1, 2, 8)
        h = torch.cat([h, times, self.y_encoder(torch.where(y == -1, 3, y)).view(-1, 2, 8)], 1)
        return self.unpatch(self.transformer(h)[:, :-4].transpose(1, 2).reshape(len(u_t), 8, 3, 3))


@pytest.fixture
def both() -> tuple[FlowViT, Reference]:
    with fenced(0):
        reference, network = Reference().eval(), FlowViT(**SIZES).eval()
    network.load_state_dict(reference.state_dict())
    return network, reference


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    with fenced(1):
        return torch.randn(5, 1, 12, 12), torch.rand(5), torch.tensor([0, 1, 2, NO_CLASS, 0])


def test_it_has_the_tensors_of_the_published_file_and_computes_the_same(both, inputs) -> None:
    network, reference = both
    assert network.state_dict().keys() == reference.state_dict().keys()
    assert torch.allclose(network.flow(*inputs), reference(*inputs), atol=1e-5)


def test_as_a_denoiser_it_sees_the_image_and_the_noise_that_it_was_trained_on(both, inputs) -> None:
    """From x = 2 u - 1 and noise of sigma, the network is given t u + (1 - t) n, and 2 u - 1 comes back."""
    network, reference = both
    noise, t, y = inputs
    u, shape = torch.sigmoid(noise.flip(0)), (-1, 1, 1, 1)
    sigma = 2 * (1 - t) / t
    u_t = t.view(shape) * u + (1 - t).view(shape) * noise
    denoised = network(2 * u - 1 + sigma.view(shape) * noise, sigma, y)
    assert torch.allclose(denoised, 2 * reference(u_t, t, y) - 1, atol=1e-4)


def test_without_classes_every_image_has_the_row_for_none(both, inputs) -> None:
    network, (x, sigma, _) = both[0], inputs
    none = torch.full((5,), NO_CLASS)
    assert torch.equal(network(x, sigma + 0.1), network(x, sigma + 0.1, none))
    assert not torch.equal(network(x, sigma + 0.1), network(x, sigma + 0.1, none + 1))
    assert knows_no_class(network) and network.num_classes == 3


def test_defenses_ask_it_for_the_noise_at_any_level_of_their_diffusion(both, inputs) -> None:
    network, (eps, _, y) = both[0], inputs
    process, t = discrete_vp(), torch.tensor([1, 100, 400, 700, 1000])
    signal, sigma = (found.float().view(-1, 1, 1, 1) for found in (process.signal(t), process.sigma(t)))
    x_t = signal * eps.tanh() + sigma * eps
    clean = network(x_t / signal, (sigma / signal).flatten(), y)
    expected = (x_t - signal * clean) / sigma
    assert torch.allclose(adapted(network, process).eps(x_t, t, y), expected, rtol=1e-3, atol=1e-3)


def test_attacks_and_purification_may_differentiate_it_twice(both, inputs) -> None:
    network, (x, sigma, y) = both[0].double(), inputs
    assert_twice_differentiable(lambda image: network(image, sigma.double() + 0.1, y).square().sum(), x.double())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"patch_size": 5}, "patches of 5 pixels do not tile images of 28"), ({"heads": 3}, "no multiple of 3 heads")],
)
def test_sizes_that_do_not_fit_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FlowViT(**arguments)
