"""The diffusion model that fits a finite set of images perfectly (paper Theorem 3.2, Eq. 7).

Let p(x | y) be uniform on the images x_i of D_y. Given x_t = a x + sigma eps with a = sqrt(alpha_t), the posterior of
the clean image is then a distribution s over D_y, and its mean m gives the best estimate of the noise:

    s_i  = softmax_i( -||x_t - a x_i||^2 / (2 sigma^2) )      m = sum_i s_i x_i      eps* = (x_t - a m) / sigma

The error eps* - eps is (a / sigma) (x - m): a diffusion classifier with this noise predictor is Corollary 3.3.
The derivative of m is symmetric, and its product with a vector v again a sum over D_y:

    dm/dx_t v = (a / sigma^2) Cov v        Cov v = sum_i s_i (x_i - m) <x_i - m, v>

Both sums run over blocks of D_y, the softmax with a running maximum and total (Milakov and Gimelshein, 2018), so that
memory does not depend on |D_y|. Log-weights are a <x_t, x_i> / sigma^2 - a^2 ||x_i||^2 / (2 sigma^2), which differs
from the above by what all i share. They are computed in float64, whatever the type of the images: at t = 1,
1 / sigma^2 is 10^4, and an error in the seventh digit of a norm would decide between images. The same holds for the
projections on v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.once import refuse_second_derivative
from defenses.diffusion.schedule import Process
from harness.errors import UserError
from harness.process import waits


class OptimalDenoiser(nn.Module):
    """eps*(x_t, t, y); without a class, D is the whole set. Differentiable (once) in x_t, block by block.

    Args:
        images: D, (N, C, H, W) in [0, 1].
        labels: (N,) int64 in 0..K-1.
        num_classes: K.
        process: the diffusion to which the times t belong.
        block: images of D held at once beside the noisy ones. It affects memory only.

    Raises:
        UserError: a class has no image.
    """

    data: Tensor

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int, process: Process, block: int) -> None:
        super().__init__()
        counts = labels.bincount(minlength=num_classes).tolist()
        if min(counts) == 0:
            raise UserError(
                f"class {counts.index(0)} has no image",
                remedy="Every class needs at least one",
            )
        data = torch.empty_like(images.flatten(1))
        for part, label in zip(data.split(counts), range(num_classes), strict=True):
            part.copy_(images[labels == label].flatten(1)).mul_(2).sub_(1)
        self.register_buffer("data", data, persistent=False)
        self.counts, self.process, self.block = counts, process, block

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """eps*, (M, C, H, W); see `defenses.diffusion.denoiser.Denoiser`."""
        y = torch.full_like(t, NO_CLASS, dtype=torch.int64) if y is None else y
        signal, sigma = (values.to(x_t.device)[:, None] for values in (self.process.signal(t), self.process.sigma(t)))
        noisy, means = x_t.flatten(1), torch.zeros_like(x_t.flatten(1))
        for label in waits.distinct(y):
            rows = waits.rows(y == label)
            given = _Posterior(noisy[rows].detach(), signal[rows], sigma[rows], self._of_class(label), self.block)
            means = means.index_copy(0, rows, _Mean.apply(noisy[rows], given))
        return ((noisy - signal.to(noisy) * means) / sigma.to(noisy)).view_as(x_t)

    def _of_class(self, label: int) -> Tensor:
        """D_y, (|D_y|, C H W) in [-1, 1]: a view."""
        return self.data if label == NO_CLASS else self.data.split(self.counts)[label]


@dataclass(frozen=True, eq=False)
class _Posterior:
    """The distribution s for M noisy images. noisy: (M, D); signal, sigma: (M, 1) float64; data: D_y, (N, D)."""

    noisy: Tensor
    signal: Tensor
    sigma: Tensor
    data: Tensor
    block: int

    def mean(self) -> tuple[Tensor, Tensor]:
        """m, (M, D), and the logarithm of the total weight, (M, 1) float64."""
        noisy, sums = self.noisy.double(), torch.zeros_like(self.noisy)
        peak, total = torch.full_like(self.sigma, -torch.inf), torch.zeros_like(self.sigma)
        for block in self.data.split(self.block):
            logs = self._logs(noisy, block.double())
            higher = torch.maximum(peak, logs.amax(1, keepdim=True))
            weights, faded = (logs - higher).exp(), (peak - higher).exp()
            total = total * faded + weights.sum(1, keepdim=True)
            sums = torch.addmm(sums * faded.to(sums), weights.to(sums), block)
            peak = higher
        return sums / total.to(sums), peak + total.log()

    def covariance(self, v: Tensor, mean: Tensor, log_total: Tensor) -> Tensor:
        """Cov v, (M, D). v: (M, D)."""
        noisy, vectors, sums = self.noisy.double(), v.double(), torch.zeros_like(v)
        centre, total = (mean * vectors).sum(1, keepdim=True), torch.zeros_like(self.sigma)
        for block in self.data.split(self.block):
            exact = block.double()
            weights = (self._logs(noisy, exact) - log_total).exp() * (vectors @ exact.T - centre)
            total += weights.sum(1, keepdim=True)
            sums = torch.addmm(sums, weights.to(sums), block)
        return sums - total.to(sums) * mean

    def _logs(self, noisy: Tensor, block: Tensor) -> Tensor:
        """Log-weights up to a constant, (M, B), in float64."""
        precision = (self.signal / self.sigma).square()
        return (noisy * (self.signal / self.sigma.square())) @ block.T - precision * block.square().sum(1) / 2


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, noisy: Tensor, posterior: _Posterior) -> Tensor:
        mean, log_total = posterior.mean()
        ctx.posterior = posterior
        ctx.save_for_backward(mean, log_total)
        return mean

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("the optimal noise predictor")
        posterior = ctx.posterior
        gain = (posterior.signal / posterior.sigma.square()).to(v)
        return gain * posterior.covariance(v, *ctx.saved_tensors), None
