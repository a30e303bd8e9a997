"""Timesteps that are drawn anew: from the range that was named, all as often, image by image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.random_times import Draws, RandomTimes, drawn_grid
from defenses.diffusion.timesteps import TimeGrid, Weighting, levels
from harness.errors import UserError
from helpers.denoisers import ToyDenoiser


def grid(weighting: Weighting = "uniform", **spec: Any) -> tuple[TimeGrid, Draws]:
    times = RandomTimes(**spec)
    pool, draws = drawn_grid(levels(weighting), times, "uniform", weighting, sigma_data=0.5, name="purify_timesteps")
    assert draws is not None
    return pool, draws


def test_all_timesteps_of_the_range_are_equally_likely_and_none_is_drawn_twice() -> None:
    pool, draws = grid(random=3, low=11, high=20)
    drawn = draws(torch.arange(4000)).timesteps
    assert pool.timesteps.tolist() == list(range(11, 21)) and drawn.shape == (4000, 3)
    assert (drawn.sort(1).values.diff(dim=1) > 0).all()
    counts = drawn.flatten().bincount(minlength=21)[11:]
    expected = 4000 * 3 / 10
    assert (counts - expected).square().sum() / expected < 27.9  # chi square, 9 degrees of freedom, 0.1%


def test_equal_seeds_give_equal_timesteps_in_any_batch_and_others_others() -> None:
    _, draws = grid(random=1)
    seeds = torch.arange(50)
    drawn = draws(seeds).timesteps
    assert torch.equal(draws(seeds[7:9]).timesteps, drawn[7:9])
    assert len(drawn.unique()) > 40 and 1 <= drawn.min() <= drawn.max() <= 1000


@pytest.mark.parametrize("weighting", ["uniform", "elbo", "edm", "edm_reference"])
def test_a_drawn_error_is_that_of_eps_or_under_edms_weightings_of_the_image(weighting: Weighting) -> None:
    """x_t = x + sigma eps, so that an error of the image is sigma times that of eps."""
    _, draws = grid(weighting, random=2)
    drawn = draws(torch.arange(5))
    image = weighting.startswith("edm")
    expected = drawn.sigma**2 / 2 if image else torch.full((5, 2), 0.5, dtype=torch.float64)
    torch.testing.assert_close(drawn.weights, expected)
    assert torch.equal(drawn.signal, levels(weighting).signal(drawn.timesteps))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("chunk", [2, 100])
def test_a_loss_on_drawn_timesteps_is_the_mean_of_the_losses_on_each(samples: int, chunk: int) -> None:
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seeds, classes = torch.tensor([3, 1 << 60, 9]), torch.tensor([-1, 4])
    _, draws = grid(random=2, low=100, high=900)
    drawn, schedule = draws(seeds), levels("uniform")

    def loss(on: TimeGrid) -> DiffusionLoss:
        return DiffusionLoss(ToyDenoiser(channels=2).double(), on, GaussianNoise(), samples=samples, chunk=chunk)

    own = x.clone().requires_grad_()
    found = loss(drawn)(own, classes, seeds)
    gradients = loss(drawn).gradients(x, classes, seeds)
    (pulled,) = torch.autograd.grad(found[:, 1].sum(), own)
    torch.testing.assert_close(pulled, gradients[:, 1])
    for n in range(3):
        alone = slice(n, n + 1)
        each: list[Tensor] = []
        for t in drawn.timesteps[n].tolist():
            single, _ = drawn_grid(schedule, [t], "uniform", "uniform", sigma_data=0.5, name="timesteps")
            each.append(loss(single)(x[alone], classes, seeds[alone]))
        torch.testing.assert_close(found[alone], torch.stack(each).mean(0))
    assert len(loss(drawn).grid) == 2


def test_drawing_all_is_the_whole_range() -> None:
    pool, draws = grid(random=8, low=3, high=10)
    drawn = draws(torch.arange(4))
    assert torch.equal(drawn.timesteps.sort(1).values, pool.timesteps.expand(4, -1))
    torch.testing.assert_close(drawn.weights.sum(1), pool.weights.sum().expand(4))


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"random": 0}, "draws 0 of 1000 timesteps"),
        ({"random": 4, "low": 8, "high": 10}, "draws 4 of 3 timesteps"),
        ({"random": 1, "low": 0}, "is drawn from 0..1000"),
        ({"random": 1, "low": 9, "high": 8}, "is drawn from 9..8"),
        ({"random": 1, "high": 1001}, "is drawn from 1..1001"),
    ],
)
def test_ranges_that_are_none_are_refused(spec: dict[str, int], complaint: str) -> None:
    with pytest.raises(UserError, match=f"purify_timesteps {complaint}"):
        grid(**spec)
