"""Diffusion training: the loss of Eq. 2 with the class withheld now and then, against naive loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from defenses.training.diffusion import Diffusion
from harness.errors import UserError


class Spy(nn.Module):
    """Predicts a fixed linear function of its input, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, labels: Tensor, y: Tensor) -> Tensor:
        self.asked.append((x, labels, y))
        return self.gain * x + 0.01 * y.view(-1, 1, 1, 1)


def alpha(t: int) -> float:
    """alpha_t of the discrete VP schedule, by its definition."""
    return math.prod(1 - (0.1 + (20 - 0.1) * s / 999) / 1000 for s in range(t))


def test_the_network_sees_scaled_images_noised_to_their_timestep_and_is_asked_for_that_noise() -> None:
    network, x, y = Spy(), torch.rand(5, 1, 8, 8), torch.arange(5)
    loss = Diffusion(label_dropout=0).loss(network, x, y)
    [(x_t, labels, seen)] = network.asked
    assert torch.equal(seen, y)
    assert ((labels >= 0) & (labels <= 999)).all()
    alphas = torch.tensor([alpha(int(label) + 1) for label in labels]).view(-1, 1, 1, 1)
    eps = (x_t - alphas.sqrt() * (2 * x - 1)) / (1 - alphas).sqrt()
    assert eps.std().item() == pytest.approx(1, abs=0.2)
    expected = (0.5 * x_t + 0.01 * y.view(-1, 1, 1, 1) - eps).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_class_is_withheld_from_the_stated_share_of_images() -> None:
    network, y = Spy(), torch.full((20_000,), 3)
    with torch.no_grad():
        Diffusion(label_dropout=0.1).loss(network, torch.zeros(20_000, 1, 2, 2), y)
    seen = network.asked[0][2]
    assert set(seen.tolist()) == {3, -1}
    assert (seen == -1).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_timesteps_are_uniform_over_all_of_them() -> None:
    network = Spy()
    with torch.no_grad():
        Diffusion().loss(network, torch.zeros(50_000, 1, 1, 1), torch.zeros(50_000, dtype=torch.int64))
    counts = network.asked[0][1].bincount(minlength=1000)
    assert len(counts) == 1000
    assert counts.min() > 15
    assert counts.float().view(10, 100).sum(1) == pytest.approx(torch.full((10,), 5_000.0), rel=0.1)


class Oracle(nn.Module):
    """Knows the clean image of each class, so that its error is smallest under the right one."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(2 * images - 1)

    def forward(self, x: Tensor, labels: Tensor, y: Tensor) -> Tensor:
        alphas = torch.tensor([alpha(int(label) + 1) for label in labels]).view(-1, 1, 1, 1)
        return (x - alphas.sqrt() * self.images[y]) / (1 - alphas).sqrt()


def test_the_clean_accuracy_is_that_of_a_diffusion_classifier() -> None:
    """The oracle's error is alpha/sigma^2 |x - image_y|^2, whatever the noise: logits are known in closed form."""
    images = torch.rand(3, 1, 4, 4)
    logits = Diffusion(timesteps=10).logits(Oracle(images), images, 3)
    ratio = sum(alpha(100 * j) / (1 - alpha(100 * j)) for j in range(1, 11)) / 10
    distances = (2 * images[:, None] - 2 * images).square().flatten(2).mean(2)
    assert logits.detach() == pytest.approx(-ratio * distances, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_its_range_is_told(share: float) -> None:
    with pytest.raises(UserError, match="label_dropout"):
        Diffusion(label_dropout=share)
