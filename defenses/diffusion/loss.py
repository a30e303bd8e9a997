"""The diffusion loss of an image under each class (paper Sec. 3.2 and 3.5, Eq. 5 and 9).

    loss_y(x) = sum_j weight_j  1/S sum_s || eps_theta(sqrt(alpha_t) x~ + sigma_t eps, t, y) - eps ||^2,    t = t_j

with x~ = 2 x - 1, weight_j = w_t / T', and eps drawn for each (image, y, t, s). A diffusion classifier's logits are
-loss_y (Eq. 6); y = `NO_CLASS` gives the unconditional loss of Eq. 4 and 8. See `chunked_gradient` for its derivative,
and `all_classes` for that of a network that predicts for all classes in one evaluation: T' S instead of K T' S of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from defenses.diffusion.all_classes import AllClassesSum
from defenses.diffusion.chunk_size import chunk_size
from defenses.diffusion.chunked_gradient import ChunkedSum, Passes
from defenses.diffusion.conditioning import ClassesOnly, Pair
from defenses.diffusion.corruption import PLAIN, Corruption
from defenses.diffusion.denoiser import NO_CLASS, AllClassesDenoiser, Denoiser, knowing
from defenses.diffusion.graph_memory import allowance
from defenses.diffusion.noise import NoiseSource
from defenses.diffusion.precision import evaluated
from defenses.diffusion.timesteps import TimeGrid
from harness.process import waits
from harness.search import Precision

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class DiffusionLoss:
    """Loss of each image under each class, differentiable (once) in the images, in constant memory.

    Args:
        denoiser: eps_theta. One that answers for all classes at once is asked so, see `all_classes_of`.
        grid: timesteps and weights, T' of each; those of each image where every image has its own.
        noise: draws eps; for a denoiser of all classes at once, which has one eps for them, that of class 0.
        samples: S, draws of eps per timestep.
        reduction: of the squared error over channels and pixels. "sum" is Eq. 5; its losses differ by hundreds between
            classes, which saturates a softmax. "mean" is the same divided by C H W.
        chunk: network evaluations held in memory at once; None takes on a CPU 256 images of 8x8 or 16 of 32x32, and on
            a GPU what its memory holds, see `chunk_size`.
        passes: how the gradient is computed, see `chunked_gradient`; a matter of two for all classes at once.
        graph_memory: MiB of graphs that may be kept to spare a backward pass evaluations, where that serves: for all
            classes at once, and for the gradients' own derivative. None is a quarter of what is free.
        precision, channels_last: of the network's evaluations, see `harness.search.Search`; verdicts are in float32.
        corruption: how an image becomes a noisy one, and what the prediction is compared with.
    """

    denoiser: Denoiser
    grid: TimeGrid
    noise: NoiseSource
    samples: int = 1
    reduction: Reduction = "mean"
    chunk: int | None = None
    passes: Passes = "auto"
    graph_memory: float | None = 0
    precision: Precision = "float32"
    channels_last: bool = False
    corruption: Corruption = PLAIN

    def __call__(self, x: Tensor, classes: Tensor, seeds: Tensor) -> Tensor:
        """Losses, (N, K), non-negative.

        Args:
            x: images, (N, C, H, W) in [0, 1].
            classes: which classes, (K,) int64; `NO_CLASS` for the unconditional loss. Or those of each image, (N, K),
                on the device of x and without `NO_CLASS`.
            seeds: of each image's noise, (N,) int64.
        """
        terms = self._terms(x, classes, seeds)
        at_once = self.at_once(classes)
        if at_once is None:
            return self._each(x, terms)(x)
        return self._all(x, terms, at_once)(x)

    def gradients(self, x: Tensor, classes: Tensor, seeds: Tensor, *, calls: int = 1) -> Tensor:
        """d loss[n, k] / d x_n, (N, K, C, H, W), differentiable (once); gradients need not be enabled.

        calls: how many such calls share the memory for graphs.
        """
        allowed = allowance(x, self.graph_memory) / calls
        return self._each(x, self._terms(x, classes, seeds)).gradients(x, allowed=allowed)

    def by_timestep(self, x: Tensor, classes: Tensor, seeds: Tensor) -> Tensor:
        """The losses apart by timestep, (N, K, T'), whose sum over T' is the loss; without a graph. See `__call__`."""
        terms, at_once = self._terms(x, classes, seeds), self.at_once(classes)
        values = self._each(x, terms).values if at_once is None else self._all(x, terms, at_once).values
        places = torch.arange(self._num_terms, device=x.device).split(self.samples)
        return torch.stack([values(x, only=some) for some in places], 2)

    def scale(self, x: Tensor) -> float:
        """What a loss of images like x is to be multiplied by to be Eq. 5's, which sums over pixels."""
        return 1.0 if self.reduction == "sum" else float(x[0].numel())

    def evaluations(self, classes: Tensor) -> int:
        """Of the network, for the losses of one image."""
        return (classes.shape[-1] if self.at_once(classes) is None else 1) * self._num_terms

    @property
    def _num_terms(self) -> int:
        return len(self.grid) * self.samples

    def at_once(self, classes: Tensor) -> AllClassesDenoiser | None:
        """What answers for these classes at once: nothing for one alone, which is as cheap, nor for `NO_CLASS`."""
        several = classes.dim() == 1 and len(classes) > 1 and not waits.some(classes == NO_CLASS)
        return all_classes_of(self.denoiser) if several else None

    def _terms(self, x: Tensor, classes: Tensor, seeds: Tensor) -> _Terms:
        shared = classes if classes.dim() == 1 else torch.zeros(1, dtype=torch.int64)  # those of each image are classes
        denoiser = knowing(self.denoiser, shared)
        return _Terms(self, denoiser, self.grid.to(x), _copied(classes, x.device), seeds.to(x.device))

    def _each(self, x: Tensor, terms: _Terms) -> ChunkedSum:
        chunk = self._chunk(x, lambda image, first: terms(image, first, first, first))
        return ChunkedSum(terms, terms.classes.shape[-1], self._num_terms, chunk, self.passes)

    def _all(self, x: Tensor, terms: _Terms, at_once: AllClassesDenoiser) -> AllClassesSum:
        sums, allowed = partial(terms.at_once, at_once), allowance(x, self.graph_memory)
        chunk = self._chunk(x, lambda image, first: sums(image, first, first))
        return AllClassesSum(sums, len(terms.classes), self._num_terms, chunk, allowed)

    def _chunk(self, x: Tensor, evaluate: Callable[[Tensor, Tensor], Tensor]) -> int:
        """evaluate: (image (1, C, H, W), its place (1,)) -> the loss of one term."""
        place = torch.zeros(1, dtype=torch.int64, device=x.device)
        return self.chunk or chunk_size(self.denoiser, x, lambda image: evaluate(image, place), self.precision)


def all_classes_of(denoiser: Denoiser) -> AllClassesDenoiser | None:
    """The denoiser, or the one that it asks for rows with a class, if that answers for all classes at once."""
    if isinstance(denoiser, Pair):
        return all_classes_of(denoiser.conditional)
    if isinstance(denoiser, ClassesOnly):
        return all_classes_of(denoiser.denoiser)
    return denoiser if isinstance(denoiser, AllClassesDenoiser) else None


@dataclass(frozen=True)
class _Terms:
    """The summands: pairs are (image, position in `classes`), term j is (timestep j // S, sample j % S)."""

    loss: DiffusionLoss
    denoiser: Denoiser
    grid: TimeGrid
    classes: Tensor
    seeds: Tensor

    def __call__(self, x: Tensor, images: Tensor, classes: Tensor, terms: Tensor) -> Tensor:
        """Sums of pairs (image, class), (P,)."""
        y = self.classes[classes] if self.classes.dim() == 1 else self.classes[images, classes]
        grid = self._grid(images, terms)
        eps, x_t = self._noisy(x, images, y, terms, grid)
        times, labels = grid.timesteps.expand(len(y), -1), y[:, None].expand(-1, len(terms))
        found = self._evaluated(partial(self.denoiser.eps, t=times.flatten(), y=labels.flatten()), x_t)
        error = self._error(found.unflatten(0, eps.shape[:2]) - eps)
        return error @ grid.weights if grid.weights.dim() == 1 else (error * grid.weights).sum(1)

    def at_once(self, denoiser: AllClassesDenoiser, x: Tensor, images: Tensor, terms: Tensor) -> Tensor:
        """Sums of images, for each class, (P, K)."""
        grid = self._grid(images, terms)
        eps, x_t = self._noisy(x, images, torch.zeros_like(images), terms, grid)
        times = grid.timesteps.expand(len(x), -1).flatten()
        found = self._evaluated(partial(denoiser.eps_all, t=times), x_t)[:, self.classes]
        error = self._error(found.unflatten(0, eps.shape[:2]) - eps[:, :, None])
        return torch.einsum("pjk,j->pk" if grid.weights.dim() == 1 else "pjk,pj->pk", error, grid.weights)

    def _evaluated(self, network: Callable[[Tensor], Tensor], x_t: Tensor) -> Tensor:
        """The network's answers to noisy images, (P, J', C, H, W), at the precision of the search."""
        loss, rows = self.loss, x_t.flatten(0, 1)
        if loss.channels_last:
            rows = rows.contiguous(memory_format=torch.channels_last)
        pixels = x_t.shape[-3:].numel() if loss.reduction == "mean" else 1
        return evaluated(network, rows, loss.precision, pixels * loss._num_terms)

    def _grid(self, images: Tensor, terms: Tensor) -> TimeGrid:
        """What belongs to these terms, with the weight of each: (J',), or (P, J') where images have their own."""
        grid = self.grid.of(images).terms(terms // self.loss.samples)
        return replace(grid, weights=grid.weights / self.loss.samples)

    def _noisy(self, x: Tensor, images: Tensor, y: Tensor, terms: Tensor, grid: TimeGrid) -> tuple[Tensor, Tensor]:
        """Targets and noisy images, both (P, J', C, H, W)."""
        sample, corruption = terms % self.loss.samples, self.loss.corruption
        shape = (x.shape[1] // corruption.per_image, *x.shape[2:])
        eps = self.loss.noise(self.seeds[images, None], y[:, None], grid.timesteps, sample, shape, x.dtype)
        return corruption(x, eps, grid.signal, grid.sigma)

    def _error(self, difference: Tensor) -> Tensor:
        """(*B, C, H, W) -> (*B,)."""
        squares = difference.square().flatten(-3)
        return squares.sum(-1) if self.loss.reduction == "sum" else squares.mean(-1)


def _copied(classes: Tensor, device: torch.device) -> Tensor:
    """Classes (K,) on a device; consecutive ones are made there, so that the host need not wait for a copy."""
    if classes.device == device or not len(classes):
        return classes.to(device)
    first = int(classes[0])
    run = range(first, first + len(classes))
    return torch.arange(run.start, run.stop, device=device) if classes.tolist() == list(run) else classes.to(device)
