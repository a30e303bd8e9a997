"""All classes in one pass against one class at a time, in one whole graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.diffusion.conditioning import ClassesOnly, Pair, Unconditional
from defenses.diffusion.denoiser import NO_CLASS, MultiHead
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from helpers.denoisers import naive_loss

pytestmark = pytest.mark.slow

CLASSES = torch.arange(4)
SEEDS = torch.tensor([3, 1 << 60, 11])
LABELS = torch.tensor([2, 0, 3])
CHUNKS = pytest.mark.parametrize("chunk", [1, 5, 6, 17, 4096])


class ToyHeads(nn.Module):
    """Two convolutions with a head for each of four classes and one for none; counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.read, self.write = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 5 * 2, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        self.rows = self.largest = 0

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.rows, self.largest = self.rows + len(x), max(self.largest, len(x))
        hidden = torch.tanh(self.read(x) + (label / 500)[:, None, None, None])
        return self.write(hidden).unflatten(1, (5, 2))


def multi_head(guidance: float = 1.0, dtype: torch.dtype = torch.float64) -> MultiHead:
    return MultiHead(ToyHeads().to(dtype), discrete_vp(), null_head=True, guidance=guidance)


def make(denoiser=None, timesteps: int = 6, **options) -> DiffusionLoss:
    grid = time_grid(discrete_vp(), timesteps, weighting=options.pop("weighting", "uniform"))
    return DiffusionLoss(denoiser or multi_head(), grid, GaussianNoise("classes"), **options)


def images() -> Tensor:
    return torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


def cross_entropy(losses: Tensor) -> Tensor:
    return F.cross_entropy(-50 * losses, LABELS, reduction="sum")


def margin(losses: Tensor) -> Tensor:
    true = losses.gather(1, LABELS[:, None])
    return (true - losses.scatter(1, LABELS[:, None], torch.inf).amin(1, keepdim=True)).sum()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@CHUNKS
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_losses_and_gradients_equal_one_class_at_a_time_in_one_whole_graph(chunk, guidance) -> None:
    loss, x = make(multi_head(guidance), chunk=chunk), images()
    losses, expected = loss(x, CLASSES, SEEDS), naive_loss(loss, x, CLASSES, SEEDS)
    close(losses, expected)
    for of in (cross_entropy, margin):
        found, wanted = (torch.autograd.grad(of(values), x, retain_graph=True)[0] for values in (losses, expected))
        close(found, wanted)


@CHUNKS
def test_several_samples_and_weights_are_summed_as_for_one_class(chunk) -> None:
    loss, x = make(samples=3, timesteps=2, chunk=chunk), images()
    close(loss(x, CLASSES, SEEDS), naive_loss(loss, x, CLASSES, SEEDS))
    weighted = make(weighting="elbo", reduction="sum", chunk=chunk)
    each = torch.cat([weighted(x, CLASSES[k, None], SEEDS) for k in CLASSES], 1)
    close(weighted(x, CLASSES, SEEDS), each)


def test_some_classes_have_the_losses_they_have_among_all() -> None:
    loss, x = make(), images()
    some = torch.tensor([3, 1])
    close(loss(x, some, SEEDS), loss(x, CLASSES, SEEDS)[:, some])
    mixed = torch.tensor([NO_CLASS, 2])
    close(loss(x, mixed, SEEDS), naive_loss(loss, x, mixed, SEEDS))


def test_gradients_agree_with_finite_differences() -> None:
    loss, x = make(chunk=4), images()[:, :, :3, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, CLASSES, SEEDS), x)


def test_a_pass_per_timestep_answers_for_every_class() -> None:
    loss, x = make(samples=2), images()
    losses = loss(x, CLASSES, SEEDS)
    assert loss.denoiser.network.rows == 3 * 6 * 2
    assert loss.evaluations(CLASSES) == 6 * 2
    assert loss.evaluations(torch.tensor([NO_CLASS])) == 6 * 2
    losses[1].sum().backward()  # the gradient of one image evaluates no other
    assert loss.denoiser.network.rows == (3 + 1) * 6 * 2


@CHUNKS
def test_no_evaluation_holds_more_than_a_chunk(chunk) -> None:
    loss, x = make(chunk=chunk, timesteps=20), images()
    cross_entropy(loss(x, CLASSES, SEEDS)).backward()
    assert loss.denoiser.network.largest <= chunk


def test_what_is_kept_for_the_backward_pass_are_the_images() -> None:
    losses = make(timesteps=50)(images(), CLASSES, SEEDS)
    assert [saved.shape for saved in losses.grad_fn.saved_tensors] == [images().shape]


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x = images()
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(make()(x, CLASSES, SEEDS).sum(), x, create_graph=True)


WRAPPED: dict[str, Callable[[MultiHead], nn.Module]] = {
    "pair": lambda heads: Pair(heads, Unconditional(heads)),
    "classes_only": ClassesOnly,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_denoiser_around_one_of_many_heads_takes_its_one_pass_too(name) -> None:
    plain, wrapped = make(), make(WRAPPED[name](multi_head()))
    close(wrapped(images(), CLASSES, SEEDS), plain(images(), CLASSES, SEEDS))
    assert wrapped.evaluations(CLASSES) == 6
