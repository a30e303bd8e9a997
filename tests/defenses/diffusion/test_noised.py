"""Noised diffusion classifiers and one-step denoising, on Gaussian data, where both are known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from defenses.diffusion.corruption import PLAIN
from defenses.diffusion.denoiser import Denoiser
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.noised import NoisyStart, denoised_once, noised_grid, paired, refuse_out_of_reach
from defenses.diffusion.optimal import OptimalDenoiser
from defenses.diffusion.schedule import ContinuousVE, discrete_ve, discrete_vp
from defenses.diffusion.timesteps import TimeGrid, levels
from harness.errors import UserError
from harness.randomness import normal
from helpers.gaussian import GaussianDenoiser

S, SIGMA = 0.5, 0.25
TAU = 2 * SIGMA
MEANS = 0.6 * normal(torch.tensor([1, 2, 3]), (1, 2, 2), torch.float64)
X_TAU = MEANS[0] + normal(torch.tensor([4, 5]), (1, 2, 2), torch.float64) * (S**2 + TAU**2) ** 0.5
"""Noisy images, on the scale of [-1, 1]."""

NOISY = (X_TAU + 1) / 2
SEEDS, CLASSES = torch.tensor([7, 8]), torch.arange(3)


def above(tau: float, steps: int = 100, last: float = 60.0) -> tuple[TimeGrid, GaussianDenoiser]:
    """Levels in the middle of cells of equal ratio above tau, with the weights of the integral over dl / l."""
    edges = torch.linspace(0, torch.log(torch.tensor(last / tau)).item(), steps + 1, dtype=torch.float64)
    middles = tau * ((edges[1:] + edges[:-1]) / 2).exp()
    process, times = discrete_ve(middles), torch.arange(1, steps + 1)
    weights = torch.full((steps,), float(edges[1]), dtype=torch.float64)
    grid = TimeGrid(times, process.signal(times), process.sigma(times), weights)
    return grid, GaussianDenoiser(MEANS, S, process)


def loss_of(corruption, grid: TimeGrid, denoiser: Denoiser, samples: int) -> DiffusionLoss:  # type: ignore[no-untyped-def]
    noise = GaussianNoise("classes")
    return DiffusionLoss(denoiser, grid, noise, samples=samples, reduction="sum", corruption=corruption, chunk=4096)


def likelihoods(x: Tensor, points: Tensor, variance: float) -> Tensor:
    """log p of x (N, 1, 2, 2) under equal Gaussians around points (M, 1, 2, 2), up to a constant: (N, M)."""
    return -(x[:, None] - points).square().flatten(2).sum(2) / (2 * variance)


def test_with_a_perfect_model_epndcs_logits_are_the_log_likelihoods_of_noisy_images() -> None:
    """log p_tau(x | y) = -||x - mu_y||^2 / (2 (s^2 + tau^2)) up to what classes share."""
    grid, denoiser = above(TAU)
    logits = -loss_of(NoisyStart(TAU), grid, denoiser, 400)(NOISY, CLASSES, SEEDS)
    wanted = likelihoods(X_TAU, MEANS, S**2 + TAU**2)
    assert (wanted - wanted[:, :1]).abs().max() > 2
    assert torch.allclose(logits - logits[:, :1], wanted - wanted[:, :1], atol=0.1)


def test_so_they_are_for_a_model_that_is_not_linear_and_those_of_the_plain_loss_are_not() -> None:
    """Classes of three images each: p_tau is a mixture of Gaussians of variance tau^2 around them."""
    grid, _ = above(TAU)
    points = normal(torch.arange(20, 26), (1, 2, 2), torch.float64).mul(0.8).clamp(-1, 1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    denoiser = OptimalDenoiser((points + 1) / 2, labels, 2, discrete_ve(grid.sigma), 1024)
    every = likelihoods(X_TAU, points, TAU**2)
    wanted = torch.logsumexp(every[:, 3:], 1) - torch.logsumexp(every[:, :3], 1)
    gaps = []
    for corruption in (NoisyStart(TAU), PLAIN):
        logits = -loss_of(corruption, grid, denoiser, 400)(NOISY, torch.arange(2), SEEDS)
        gaps.append(float((logits[:, 1] - logits[:, 0] - wanted).abs().max()))
    assert gaps[0] < 0.1 < 0.3 < gaps[1]


def test_apndcs_loss_is_its_closed_form() -> None:
    """E_n ||h_y(x_l) - x^||^2 / l^2, and h_y(x_l) = mu_y + g (x_tau - mu_y) + g sqrt(l^2 - tau^2) n with g as above."""
    grid, denoiser = above(TAU, steps=20)
    clean = normal(torch.tensor([9, 10]), (1, 2, 2), torch.float64)
    given = paired(NOISY, (clean + 1) / 2)
    found = loss_of(NoisyStart(TAU, approximate=True), grid, denoiser, 4000)(given, CLASSES, SEEDS)
    level = grid.sigma
    g = S**2 / (S**2 + level.square())
    mean = torch.lerp(MEANS[None, :, None], X_TAU[:, None, None], g[:, None, None, None]) - clean[:, None, None]
    spread = g.square() * (level.square() - TAU**2) * 4
    wanted = ((mean.square().flatten(3).sum(3) + spread) / level.square()) @ grid.weights
    assert torch.allclose(found, wanted, rtol=0.02)


def test_without_noise_every_posterior_is_that_of_the_plain_classifier() -> None:
    x, eps = NOISY, normal(SEEDS, (5, 1, 2, 2), torch.float64)
    t = torch.arange(100, 600, 100)
    process = discrete_vp()
    signal, sigma = process.signal(t), process.sigma(t)
    plain = PLAIN(x, eps, signal, sigma)
    for corruption, given in ((NoisyStart(0.0), x), (NoisyStart(0.0, approximate=True), paired(x, x))):
        for found, wanted in zip(corruption(given, eps, signal, sigma), plain, strict=True):
            assert torch.allclose(found, wanted)


def test_noisy_images_have_the_variance_of_their_level() -> None:
    """x_tau has the variance tau^2, so that x_l has l^2; networks see it times sqrt(alpha_t)."""
    many = torch.full((20_000, 1, 1, 1), 0.5) + SIGMA * normal(torch.arange(20_000), (1, 1, 1))
    t = torch.tensor([300, 700])
    process = discrete_vp()
    eps = normal(torch.arange(20_000) + 10**6, (2, 1, 1, 1))
    _, x_t = NoisyStart(TAU)(many, eps, process.signal(t).float(), process.sigma(t).float())
    assert torch.allclose(x_t.std(0).flatten(), process.sigma(t).float(), rtol=0.02)


@pytest.mark.parametrize("process", [ContinuousVE(), discrete_vp()], ids=["EDM", "VP"])
def test_one_step_denoising_is_the_posterior_mean(process) -> None:  # type: ignore[no-untyped-def]
    """At the level 2 sigma of images in [-1, 1]; the discrete diffusion takes the nearest one, less than 1% off."""
    denoiser = GaussianDenoiser(MEANS, S, process)
    found = denoised_once(denoiser, process, NOISY, SIGMA)
    wanted = (X_TAU * S**2 / (S**2 + TAU**2) + 1) / 2  # the unconditional model's mean is 0
    assert torch.allclose(found, wanted, rtol=0.01)


def test_the_level_of_the_noise_must_be_one_of_the_networks_diffusion() -> None:
    refuse_out_of_reach(discrete_vp(), 0.25)
    refuse_out_of_reach(ContinuousVE(), 1e-6)
    for sigma in (1e-3, 100.0):
        with pytest.raises(UserError, match="sigma is"):
            refuse_out_of_reach(discrete_vp(), sigma)


@pytest.mark.parametrize("weighting", ["uniform", "edm"])
def test_all_timesteps_have_more_noise_than_the_images(weighting) -> None:  # type: ignore[no-untyped-def]
    schedule = levels(weighting)
    every = noised_grid(schedule, SIGMA, "all", weighting)
    assert (schedule.level(every.timesteps) > TAU).all()
    assert int(every.timesteps[0]) == 1 or schedule.level(every.timesteps[:1] - 1) <= TAU
    few = noised_grid(schedule, SIGMA, 5, weighting)
    assert len(few) == 5 and few.timesteps[-1] == 1000 and (few.timesteps.diff() > 0).all()


def test_too_many_timesteps_are_refused() -> None:
    with pytest.raises(UserError, match="leaves"):
        noised_grid(discrete_vp(), SIGMA, 999)


def test_the_gradient_is_that_of_finite_differences() -> None:
    grid, denoiser = above(TAU, steps=6)
    for corruption, start in (
        (NoisyStart(TAU), NOISY),
        (NoisyStart(TAU, approximate=True), paired(NOISY, NOISY / 2)),
    ):
        loss = loss_of(corruption, grid, denoiser, 2)

        def total(x: Tensor, loss: DiffusionLoss = loss) -> Tensor:
            return loss(x, CLASSES, SEEDS).sum(1)

        x = start.clone().requires_grad_()
        (grad,) = torch.autograd.grad(total(x).sum(), x)
        direction = normal(torch.tensor([11, 12]), start.shape[1:], torch.float64)
        slope = (total(start + 1e-4 * direction) - total(start - 1e-4 * direction)) / 2e-4
        assert torch.allclose((grad * direction).flatten(1).sum(1), slope, rtol=1e-5)
