"""The diffusion loss against the original implementation's numbers, with its noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.diffusion.denoiser import NO_CLASS, DiscreteVP, EDMDenoiser
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import levels, time_grid
from defenses.networks.edm import EDM
from defenses.networks.ncsnpp import NCSNpp
from helpers.denoisers import ToyDenoiser
from helpers.originals import assert_summary, fill, golden, rule_image, rule_noise

pytestmark = pytest.mark.slow

TIMESTEPS = [1, 126, 251, 376, 501, 626, 751, 876]
CLASSES = torch.arange(10)
SEEDS = torch.zeros(2, dtype=torch.int64)
LABELS = (9, 7)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
PRECISIONS = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "float64"])


class RuleNoise:
    """The golden noise: position p of class c is rule noise number 8 c + p, or p for every class when shared."""

    def __init__(self, rule_noise, shared: bool) -> None:
        self.rule_noise, self.shared = rule_noise, shared

    def __call__(
        self,
        seeds: Tensor,
        classes: Tensor,
        timesteps: Tensor,
        samples: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor:
        _, classes, timesteps, _ = torch.broadcast_tensors(seeds, classes, timesteps, samples)
        numbers = timesteps // 125 + (0 if self.shared else 8 * classes)
        noises = [self.rule_noise((1, *shape), int(k), dtype)[0] for k in numbers.flatten()]
        return torch.stack(noises).view(*numbers.shape, *shape)


@cache
def denoiser(dtype: torch.dtype) -> DiscreteVP:
    network = NCSNpp(image_size=16, nf=32, ch_mult=(1, 2, 2), num_res_blocks=2, attn_resolutions=(8,), num_classes=10)
    return DiscreteVP(fill(network, exempt=["sigmas"]).to(dtype))


@pytest.fixture
def make():
    def build(
        dtype: torch.dtype, shared: bool = False, timesteps: Sequence[int] = TIMESTEPS, **options
    ) -> DiffusionLoss:
        grid = time_grid(discrete_vp(), timesteps)
        return DiffusionLoss(denoiser(dtype), grid, RuleNoise(rule_noise, shared), **options)

    return build


def precise(golden, dtype: torch.dtype) -> dict:
    return golden("dc_vp")[str(dtype).removeprefix("torch.")]


def assert_close(found: Tensor, expected: list | float, dtype: torch.dtype) -> None:
    torch.testing.assert_close(
        found.double(), torch.tensor(expected, dtype=torch.float64), rtol=TOLERANCE[dtype], atol=0
    )


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float32, "independent"), (torch.float64, "independent"), (torch.float32, "shared")],
    ids=["float32-independent", "float64-independent", "float32-shared"],
)
def test_losses_and_gradients_are_the_original_ones(make, dtype, name) -> None:
    expected, x = precise(golden, dtype), rule_image((2, 3, 16, 16), dtype).requires_grad_()
    losses = make(dtype, name == "shared", passes="single", chunk=100)(x, CLASSES, SEEDS)
    assert_close(losses.detach(), expected[f"{name}/loss_per_class"], dtype)

    for reduction, scale in {"mean": 1, "sum": 768}.items():
        cross = F.cross_entropy(-scale * losses, torch.tensor(LABELS), reduction="none")
        (grad,) = torch.autograd.grad(cross.sum(), x, retain_graph=True)
        for i, label in enumerate(LABELS):
            case = f"ce_{reduction}_image{i}_label{label}"
            assert_close(cross[i].detach(), expected[f"{name}/{case}"], dtype)
            assert_summary(grad[i : i + 1], expected[f"{name}/grad_{case}"], GRADIENT_TOLERANCE[dtype])

    (grad,) = torch.autograd.grad(losses[0, 9] + losses[1, 7], x)
    assert_summary(grad[:1], expected[f"{name}/grad_loss_class9_image0"], GRADIENT_TOLERANCE[dtype])
    assert_summary(grad[1:], expected[f"{name}/grad_loss_class7_image1"], GRADIENT_TOLERANCE[dtype])


@PRECISIONS
@pytest.mark.parametrize("label", [0, 3])
def test_losses_of_single_timesteps_are_the_original_ones(make, dtype, label) -> None:
    x = rule_image((2, 3, 16, 16), dtype)
    losses = [make(dtype, timesteps=[t])(x, torch.tensor([label]), SEEDS)[:, 0] for t in TIMESTEPS]
    assert_close(torch.stack(losses), precise(golden, dtype)[f"independent/loss_by_timestep_class{label}"], dtype)


@PRECISIONS
def test_the_unconditional_loss_is_the_original_one(make, dtype) -> None:
    losses = make(dtype, shared=True)(rule_image((2, 3, 16, 16), dtype), torch.tensor([NO_CLASS]), SEEDS)
    assert_close(losses[:, 0], precise(golden, dtype)["shared/loss_y_None"], dtype)


@pytest.mark.parametrize("weighting", ["edm", "edm_reference"])
def test_losses_and_gradients_of_edm_are_the_original_ones(weighting) -> None:
    published, expected = golden("edm_songunet"), golden("dc_edm")[weighting]
    network = EDM.from_published(published["config"]["a_cond_vp"]["tiny"])
    denoiser = EDMDenoiser(fill(network, exempt=published["exceptions"]["a_cond_vp"]).double(), levels(weighting))
    grid = time_grid(levels(weighting), 8, weighting=weighting)
    loss = DiffusionLoss(denoiser, grid, RuleNoise(rule_noise, shared=False), passes="single", chunk=80)
    x, labels = rule_image((2, 3, 16, 16), torch.float64).requires_grad_(), (3, 7)
    losses = loss(x, CLASSES, SEEDS)
    assert_close(losses.detach(), expected["loss_per_class"], torch.float64)
    cross = F.cross_entropy(-losses, torch.tensor(labels), reduction="none")
    (grad,) = torch.autograd.grad(cross.sum(), x)
    for i, label in enumerate(labels):
        assert_close(cross[i].detach(), expected[f"ce_image{i}_label{label}"], torch.float64)
        assert_summary(grad[i : i + 1], expected[f"grad_ce_image{i}_label{label}"], GRADIENT_TOLERANCE[torch.float64])


def test_a_subset_of_classes_and_images_has_the_losses_it_has_among_all() -> None:
    loss = DiffusionLoss(ToyDenoiser(channels=1).double(), time_grid(discrete_vp(), 6), GaussianNoise())
    x, seeds = torch.rand(3, 1, 4, 4, dtype=torch.float64), torch.tensor([5, 6, 7])
    every = loss(x, CLASSES, seeds)
    some = loss(x[2:], torch.tensor([8, 1]), seeds[2:])
    torch.testing.assert_close(some, every[2:, [8, 1]], rtol=1e-12, atol=0)


def test_a_sum_over_pixels_is_the_mean_times_their_number() -> None:
    x, seeds = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.tensor([5, 6])
    mean = DiffusionLoss(ToyDenoiser(channels=3).double(), time_grid(discrete_vp(), 6), GaussianNoise())
    total = dataclasses.replace(mean, reduction="sum")
    torch.testing.assert_close(total(x, CLASSES, seeds), 48 * mean(x, CLASSES, seeds), rtol=1e-12, atol=0)
