"""The chunked sum against autograd on one whole graph, for loss functions that touch one, two or all classes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from helpers.denoisers import ToyDenoiser, naive_loss

pytestmark = pytest.mark.slow

CLASSES = torch.arange(10)
SEEDS = torch.tensor([3, 1 << 60])
LABELS = torch.tensor([4, 9])


def cross_entropy(losses: Tensor) -> Tensor:
    return F.cross_entropy(-losses, LABELS, reduction="sum")


def margin(losses: Tensor) -> Tensor:
    true = losses.gather(1, LABELS[:, None])
    return (true - losses.scatter(1, LABELS[:, None], torch.inf).amin(1, keepdim=True)).sum()


def one_class(losses: Tensor) -> Tensor:
    return losses[1, 7]


LOSSES = {"cross_entropy": cross_entropy, "margin": margin, "one_class": one_class}


def images(dtype: torch.dtype) -> Tensor:
    return torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def make(toy, dtype: torch.dtype, timesteps: int, **options) -> DiffusionLoss:
    denoiser = toy(channels=2).to(dtype)
    return DiffusionLoss(denoiser, time_grid(discrete_vp(), timesteps), GaussianNoise(), **options)


def gradient(losses: Tensor, x: Tensor, name: str) -> Tensor:
    return torch.autograd.grad(LOSSES[name](losses), x, retain_graph=True)[0]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance", "timesteps"), [(torch.float32, 1e-4, 8), (torch.float64, 1e-8, 8), (torch.float64, 1e-8, 25)]
)
def test_losses_and_gradients_equal_autograd_on_one_whole_graph(dtype, tolerance, timesteps) -> None:
    loss, x = make(ToyDenoiser, dtype, timesteps), images(dtype)
    expected = naive_loss(loss, x, CLASSES, SEEDS)
    for passes in ("two", "single"):
        for chunk in (37, 4096):
            ours = dataclasses.replace(loss, passes=passes, chunk=chunk)
            losses = ours(x, CLASSES, SEEDS)
            assert error(losses.detach(), expected.detach()) < tolerance
            for name in LOSSES:
                assert error(gradient(losses, x, name), gradient(expected, x, name)) < tolerance, (passes, chunk, name)


@pytest.mark.parametrize("passes", ["two", "single"])
def test_several_samples_of_noise_are_averaged(passes) -> None:
    loss, x = make(ToyDenoiser, torch.float64, 3, samples=3, passes=passes, chunk=5), images(torch.float64)
    losses, expected = loss(x, CLASSES, SEEDS), naive_loss(loss, x, CLASSES, SEEDS)
    assert error(losses.detach(), expected.detach()) < 1e-12
    assert error(gradient(losses, x, "cross_entropy"), gradient(expected, x, "cross_entropy")) < 1e-12


@pytest.mark.parametrize("passes", ["two", "single"])
def test_gradients_agree_with_finite_differences(passes) -> None:
    loss = make(ToyDenoiser, torch.float64, 4, passes=passes, chunk=6)
    x = images(torch.float64)[:, :, :3, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, CLASSES[:3], SEEDS), x)


def test_the_backward_pass_of_two_evaluates_active_classes_of_each_image_only() -> None:
    loss, x = make(ToyDenoiser, torch.float32, 8, passes="two"), images(torch.float32)
    counts = {}
    for name in LOSSES:
        losses = loss(x, CLASSES, SEEDS)
        before = loss.denoiser.rows
        gradient(losses, x, name)
        counts[name] = (loss.denoiser.rows - before) // 8
    assert counts == {"one_class": 1, "margin": 2 * 2, "cross_entropy": 2 * 10}


def test_a_single_pass_evaluates_every_class_once_whatever_the_loss() -> None:
    loss, x = make(ToyDenoiser, torch.float32, 8, passes="single"), images(torch.float32)
    gradient(loss(x, CLASSES, SEEDS), x, "cross_entropy")
    assert loss.denoiser.rows == 2 * 10 * 8


def test_auto_takes_a_single_pass_for_one_class_and_two_for_ten() -> None:
    loss, x = make(ToyDenoiser, torch.float32, 8), images(torch.float32)
    loss(x, CLASSES[:1], SEEDS).sum().backward()
    assert loss.denoiser.rows == 2 * 8
    loss(x, CLASSES, SEEDS).sum().backward()
    assert loss.denoiser.rows == 2 * 8 + 2 * (2 * 10 * 8)


@pytest.mark.parametrize("passes", ["two", "single"])
@pytest.mark.parametrize("chunk", [1, 7, 30, 4096])
def test_no_evaluation_holds_more_than_a_chunk(passes, chunk) -> None:
    loss, x = make(ToyDenoiser, torch.float32, 20, passes=passes, chunk=chunk), images(torch.float32)
    gradient(loss(x, CLASSES, SEEDS), x, "cross_entropy")
    assert loss.denoiser.largest <= chunk


@pytest.mark.parametrize("passes", ["two", "single"])
def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_timesteps(passes) -> None:
    def kept(timesteps: int) -> int:
        losses = make(ToyDenoiser, torch.float32, timesteps, passes=passes)(images(torch.float32), CLASSES, SEEDS)
        return sum(saved.numel() for saved in losses.grad_fn.saved_tensors)

    assert kept(4) == kept(64) == images(torch.float32).numel() * (1 if passes == "two" else len(CLASSES))


@pytest.mark.parametrize("passes", ["two", "single"])
def test_nothing_is_differentiated_where_no_gradient_can_be_asked_for(passes) -> None:
    loss, x = make(ToyDenoiser, torch.float32, 8, passes=passes), images(torch.float32)
    tracked = loss(x, CLASSES, SEEDS).detach()
    with torch.no_grad():
        untracked = loss(x, CLASSES, SEEDS)
    plain = loss(x.detach(), CLASSES, SEEDS)
    assert not untracked.requires_grad
    assert not plain.requires_grad
    assert torch.equal(untracked, plain)
    torch.testing.assert_close(tracked, plain, rtol=1e-6, atol=0)


def test_gradients_are_found_inside_no_grad() -> None:
    loss, x = make(ToyDenoiser, torch.float64, 8), images(torch.float64)
    expected = naive_loss(loss, x, CLASSES[:2], SEEDS)
    with torch.no_grad():
        found = loss.gradients(x, CLASSES[:2], SEEDS)
    assert not found.requires_grad
    for k in range(2):
        assert error(found[:, k], torch.autograd.grad(expected[:, k].sum(), x, retain_graph=True)[0]) < 1e-12


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    loss, x = make(ToyDenoiser, torch.float64, 2), images(torch.float64)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(loss(x, CLASSES, SEEDS).sum(), x, create_graph=True)


def test_the_network_is_left_without_gradients() -> None:
    loss, x = make(ToyDenoiser, torch.float64, 2), images(torch.float64)
    loss(x, CLASSES, SEEDS).sum().backward()
    assert all(parameter.grad is None for parameter in loss.denoiser.parameters())


def second_derivative(gradients: Tensor, x: Tensor) -> Tensor:
    """The gradient of a loss of the gradients that touches pixels, classes and images alike."""
    return torch.autograd.grad((gradients.square().sum((2, 3, 4)) @ torch.tensor([1.0, -3.0]).to(x)).sin().sum(), x)[0]


@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_gradients_of_gradients_equal_autograd_on_one_whole_graph(chunk) -> None:
    loss, x = make(ToyDenoiser, torch.float64, 8, chunk=chunk), images(torch.float64)
    expected = naive_loss(loss, x, CLASSES[:2], SEEDS)
    whole = torch.stack([torch.autograd.grad(expected[:, k].sum(), x, create_graph=True)[0] for k in range(2)], dim=1)
    found = loss.gradients(x, CLASSES[:2], SEEDS)
    assert error(found.detach(), whole.detach()) < 1e-12
    assert error(second_derivative(found, x), second_derivative(whole, x)) < 1e-10
    assert loss.denoiser.largest <= max(chunk, 1)


def test_gradients_of_gradients_agree_with_finite_differences() -> None:
    loss = make(ToyDenoiser, torch.float64, 4, samples=2, chunk=6)
    x = images(torch.float64)[:, :, :2, :2].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.gradients(x, CLASSES[:2], SEEDS), x)


def test_second_derivatives_are_taken_of_the_pairs_that_are_asked_for() -> None:
    loss, x = make(ToyDenoiser, torch.float64, 8), images(torch.float64)
    found = loss.gradients(x, CLASSES[:3], SEEDS)
    before = loss.denoiser.rows
    (product,) = torch.autograd.grad(found[1, 2, 0, 0, 0], x)
    assert loss.denoiser.rows - before == 8
    assert not product[0].any()
    assert product[1].any()


def test_what_gradients_keep_for_their_derivative_is_the_images() -> None:
    x = images(torch.float32)
    found = make(ToyDenoiser, torch.float32, 64).gradients(x, CLASSES, SEEDS)
    assert [saved.shape for saved in found.grad_fn.saved_tensors] == [x.shape]


def test_a_third_derivative_is_refused_rather_than_wrong() -> None:
    loss, x = make(ToyDenoiser, torch.float64, 2), images(torch.float64)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(loss.gradients(x, CLASSES[:1], SEEDS).sum(), x, create_graph=True)
