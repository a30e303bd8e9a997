"""The diffusion loss of an image under each class (paper Sec. 3.2 and 3.5, Eq. 5 and 9).

    loss_y(x) = sum_j weight_j  1/S sum_s || eps_theta(sqrt(alpha_t) x~ + sigma_t eps, t, y) - eps ||^2,    t = t_j

with x~ = 2 x - 1, weight_j = w_t / T', and eps drawn for each (image, y, t, s). A diffusion classifier's logits are
-loss_y (Eq. 6); y = `NO_CLASS` gives the unconditional loss of Eq. 4 and 8. See `exact_gradient` for its derivative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from defenses.diffusion.denoiser import Denoiser
from defenses.diffusion.exact_gradient import ChunkedSum, Passes
from defenses.diffusion.noise import NoiseSource
from defenses.diffusion.timesteps import TimeGrid

Reduction = Literal["mean", "sum"]

CHUNK_PIXELS = {"cpu": 2**14, "cuda": 2**16}
"""Pixels (height x width) per chunk where no chunk is given. On a CPU larger ones are slower: they leave its cache."""


@dataclass(frozen=True)
class DiffusionLoss:
    """Loss of each image under each class, differentiable (once) in the images, in constant memory.

    Args:
        denoiser: eps_theta.
        grid: timesteps and weights, T' of each.
        noise: draws eps.
        samples: S, draws of eps per timestep.
        reduction: of the squared error over channels and pixels. "sum" is Eq. 5; its losses differ by hundreds between
            classes, which saturates a softmax. "mean" is the same divided by C H W.
        chunk: network evaluations held in memory at once; None takes `CHUNK_PIXELS` of them: on a CPU 256 images of
            8x8 or 16 of 32x32, elsewhere four times as many.
        passes: how the gradient is computed, see `exact_gradient`.
    """

    denoiser: Denoiser
    grid: TimeGrid
    noise: NoiseSource
    samples: int = 1
    reduction: Reduction = "mean"
    chunk: int | None = None
    passes: Passes = "auto"

    def __call__(self, x: Tensor, classes: Tensor, seeds: Tensor) -> Tensor:
        """Losses, (N, K), non-negative.

        Args:
            x: images, (N, C, H, W) in [0, 1].
            classes: which classes, (K,) int64; `NO_CLASS` for the unconditional loss.
            seeds: of each image's noise, (N,) int64.
        """
        return self._total(x, classes, seeds)(x)

    def gradients(self, x: Tensor, classes: Tensor, seeds: Tensor) -> Tensor:
        """d loss[n, k] / d x_n, (N, K, C, H, W), without a graph and whether or not gradients are enabled."""
        return self._total(x, classes, seeds).values_and_gradients(x)[1]

    def _total(self, x: Tensor, classes: Tensor, seeds: Tensor) -> ChunkedSum:
        pixels = CHUNK_PIXELS["cpu" if x.device.type == "cpu" else "cuda"]
        chunk = self.chunk or max(1, pixels // x.shape[-2:].numel())
        terms = _Terms(self, self.grid.to(x), classes.to(x.device), seeds.to(x.device))
        return ChunkedSum(terms, len(classes), len(self.grid) * self.samples, chunk, self.passes)


@dataclass(frozen=True)
class _Terms:
    """The summands: pairs are (image, position in `classes`), term j is (timestep j // S, sample j % S)."""

    loss: DiffusionLoss
    grid: TimeGrid
    classes: Tensor
    seeds: Tensor

    def __call__(self, x: Tensor, images: Tensor, classes: Tensor, terms: Tensor) -> Tensor:
        at, sample = terms // self.loss.samples, terms % self.loss.samples
        t, y = self.grid.timesteps[at], self.classes[classes]
        eps = self.loss.noise(self.seeds[images, None], y[:, None], t, sample, x.shape[1:], x.dtype)
        signal, sigma = self.grid.signal[at], self.grid.sigma[at]
        x_t = _images(signal) * (2 * x - 1)[:, None] + _images(sigma) * eps
        times, labels = t.expand(len(y), -1), y[:, None].expand(-1, len(t))
        found = self.loss.denoiser.eps(x_t.flatten(0, 1), times.flatten(), labels.flatten())
        error = (found.unflatten(0, eps.shape[:2]) - eps).square().flatten(2)
        reduced = error.sum(2) if self.loss.reduction == "sum" else error.mean(2)
        return reduced @ (self.grid.weights[at] / self.loss.samples)


def _images(values: Tensor) -> Tensor:
    """(T',) -> (T', 1, 1, 1)."""
    return values[:, None, None, None]
