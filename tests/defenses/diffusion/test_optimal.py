"""The optimal diffusion model against Eq. 7 and Corollary 3.3 written out with autograd, and against golden numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.optimal import OptimalDenoiser
from defenses.diffusion.schedule import Schedule, discrete_vp
from defenses.diffusion.timesteps import time_grid
from harness.errors import UserError
from helpers.originals import assert_summary, golden, rule_noise

SHAPE = (2, 3, 3)
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0, 2, 0, 1])
SCHEDULE = discrete_vp()


def images(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def denoiser(block: int = 1024, dtype: torch.dtype = torch.float64) -> OptimalDenoiser:
    return OptimalDenoiser(images(len(LABELS), 0).to(dtype), LABELS, 3, SCHEDULE, block)


def queries(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t, y: from nearly clean to nearly pure noise, without a class or with one, in no order."""
    t = torch.tensor([700, 1, 40, 1000, 150, 300, 90, 500])
    y = torch.tensor([1, 2, NO_CLASS, 0, 1, 2, NO_CLASS, 0])
    noise = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    signal, sigma = (values[:, None, None, None] for values in (SCHEDULE.signal(t), SCHEDULE.sigma(t)))
    return (signal * (2 * images(8, 1) - 1) + sigma * noise).to(dtype), t, y


def naive_eps(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Eq. 7, one noisy image at a time."""
    rows = []
    for noisy, time, label in zip(x_t, t, y, strict=True):
        known = 2 * images(len(LABELS), 0) - 1
        known = known if label == NO_CLASS else known[label == LABELS]
        a, sigma = SCHEDULE.signal(time), SCHEDULE.sigma(time)
        weights = torch.softmax(-(noisy - a * known).square().sum((1, 2, 3)) / (2 * sigma**2), 0)
        rows.append(((noisy - a * known) / sigma * weights[:, None, None, None]).sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize("block", [1, 2, 3, 1024])
def test_noise_and_its_derivative_are_those_of_equation_7(block: int) -> None:
    x_t, t, y = queries()
    ours, naive = x_t.clone().requires_grad_(), x_t.clone().requires_grad_()
    found, expected = denoiser(block).eps(ours, t, y), naive_eps(naive, t, y)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    v = images(8, 3)
    gradients = [torch.autograd.grad(value, at, v)[0] for value, at in ((found, ours), (expected, naive))]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_the_derivative_agrees_with_finite_differences() -> None:
    x_t, t, y = queries()
    some = [0, 2, 4, 6]
    assert torch.autograd.gradcheck(lambda x: denoiser(2).eps(x, t[some], y[some]), x_t[some].requires_grad_())


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x_t, t, y = queries()
    x_t.requires_grad_()
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(denoiser().eps(x_t, t, y).sum(), x_t, create_graph=True)


def test_float32_decides_between_near_equals_as_float64_does() -> None:
    """Of two images that differ in one pixel by 1/255, at t = 1, with norms some 10^5 times the difference."""
    base = images(1, 4).expand(2, -1, -1, -1).repeat(1, 1, 10, 10).contiguous()
    base[1, 0, 0, 0] += 1 / 255
    t, y, labels = torch.tensor([1]), torch.tensor([0]), torch.zeros(2, dtype=torch.int64)
    x_t = (SCHEDULE.signal(t) * (2 * base.mean(0) - 1)).float()[None]
    base = base.float()
    found, expected = (
        OptimalDenoiser(base.to(dtype), labels, 1, SCHEDULE, 1).eps(x_t.to(dtype), t, y).double()
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_an_image_of_the_set_has_no_loss_at_small_t() -> None:
    loss = DiffusionLoss(denoiser(), time_grid(SCHEDULE, [1, 2]), GaussianNoise())
    losses = loss(images(len(LABELS), 0), torch.arange(3), torch.arange(len(LABELS)))
    own = losses.gather(1, LABELS[:, None])
    assert float(own.max()) < 1e-12
    assert (losses.argmin(1) == LABELS).all()


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(UserError, match="class 3 has no image"):
        OptimalDenoiser(images(len(LABELS), 0), LABELS, 4, SCHEDULE, 8)


class RuleNoise:
    """The golden numbers' noise: one tensor of 1000 for each class, or one for all."""

    def __init__(self, rule_noise, shared: bool) -> None:
        self.eps = [rule_noise((1000, 3, 8, 8), k, torch.float64) for k in range(1 if shared else 10)]

    def __call__(self, seeds, classes, timesteps, samples, shape, dtype) -> Tensor:
        classes, timesteps, _ = torch.broadcast_tensors(classes % len(self.eps), timesteps - 1, seeds)
        return torch.stack(self.eps)[classes, timesteps]


def wave(shape: tuple[int, ...], frequency: float, phase: float, close: bool) -> Tensor:
    flat = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    values = (0.5 + 0.45 * (frequency * flat + phase).sin()).float().double().view(shape)
    return ((values - 0.5) * 0.1 + 0.5).float().double() if close else values


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["close", "far"])
@pytest.mark.parametrize("sharing", ["independent", "shared"])
def test_losses_and_gradients_are_the_golden_ones(distance, sharing) -> None:
    """The golden numbers take images for what the diffusion sees; ours are in [0, 1], so that 2 x - 1 is that."""
    expected = {k.split("/")[2]: v for k, v in golden("optimal_dc")["outputs"].items() if f"{distance}/{sharing}" in k}
    known, x = (
        (wave(shape, *rule, close=distance == "close") + 1) / 2
        for shape, rule in (((20, 3, 8, 8), (0.11, 0.2)), ((2, 3, 8, 8), (0.13, 1.0)))
    )
    optimal = OptimalDenoiser(known, torch.arange(20) % 10, 10, SCHEDULE, block=1)
    loss = DiffusionLoss(
        optimal, time_grid(SCHEDULE), RuleNoise(rule_noise, sharing == "shared"), reduction="sum", chunk=4096
    )
    x.requires_grad_()
    logits = -loss(x, torch.arange(10), torch.zeros(2, dtype=torch.int64))
    wanted = torch.tensor(expected["corollary33_literal_logits"], dtype=torch.float64)
    torch.testing.assert_close(logits.detach(), wanted, rtol=1e-9, atol=0)
    for row, label in enumerate((3, 7)):
        ce = F.cross_entropy(logits[row, None], torch.tensor([label]))
        (gradient,) = torch.autograd.grad(ce, x, retain_graph=True)
        assert ce.item() == pytest.approx(expected[f"corollary33_ce_image{row}_label{label}"], rel=1e-9)
        assert_summary(gradient[row, None] / 2, expected[f"corollary33_grad_ce_image{row}_label{label}"], 1e-7)


def test_it_is_the_corollary_and_not_what_the_published_code_computes() -> None:
    outputs = golden("optimal_dc")["outputs"]
    coded, corollary = (outputs[f"close/independent/{name}_logits"] for name in ("as_coded", "corollary33_literal"))
    assert abs(coded[1][3] - corollary[1][3]) > 5


def naive_corollary(x: Tensor, grid_t: Tensor, seeds: Tensor, schedule: Schedule) -> Tensor:
    """Corollary 3.3 as printed, (N, K), with the noise of `GaussianNoise`."""
    known, noise, x = 2 * images(len(LABELS), 0) - 1, GaussianNoise(), 2 * x - 1
    logits = []
    for n in range(len(x)):
        for y in range(3):
            terms = []
            for t in grid_t:
                draw = (seeds[n, None], torch.tensor([y]), t[None], torch.tensor([0]))
                eps, a, sigma = noise(*draw, SHAPE, x.dtype), schedule.signal(t), schedule.sigma(t)
                differences = x[n] - known[y == LABELS]
                s = torch.softmax(-(a * differences + sigma * eps).square().sum((1, 2, 3)) / (2 * sigma**2), 0)
                terms.append((a / sigma) ** 2 * (s[:, None, None, None] * differences).sum(0).square().sum())
            logits.append(-torch.stack(terms).mean())
    return torch.stack(logits).view(len(x), 3)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "chunk", "passes"), [(1, 1, "two"), (3, 7, "single"), (1024, 1024, "two")])
def test_loss_and_gradient_are_those_of_corollary_3_3(block: int, chunk: int, passes) -> None:
    grid, seeds = time_grid(SCHEDULE, 25), torch.tensor([5, 9])
    loss = DiffusionLoss(denoiser(block), grid, GaussianNoise(), reduction="sum", chunk=chunk, passes=passes)
    x = images(2, 7).requires_grad_()
    found, expected = -loss(x, torch.arange(3), seeds), naive_corollary(x, grid.timesteps, seeds, SCHEDULE)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    targets = torch.tensor([0, 2])
    gradients = [torch.autograd.grad(F.cross_entropy(logits, targets), x)[0] for logits in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
