"""JEM: a classifier trained as an energy-based model as well (Grathwohl et al. 2020, arXiv:1912.03263, Sec. 4).

    log p(x, y) = log p(y | x) + log p(x)
    p(y | x) = softmax(f(x))_y,    p(x) ∝ exp(-E(x)),    E(x) = -logsumexp_y f(x)_y

    loss = CE(f(x), y) + weight (mean E(x) - mean E(x~)) + regularisation (mean E(x)^2 + mean E(x~)^2)

The second term has the gradient of -log p(x) where x~ are samples of p. They come from Langevin dynamics (SGLD) on
images u in [-1, 1], step size and noise not tied to one another, as in the paper:

    u <- clip(u - step_size grad E(u) + temperature eps),    eps ~ N(0, I)

Chains go on from a buffer of earlier samples, or with a small probability from uniform noise (Du & Mordatch 2019). The
clip and the last term, which keeps energies near 0, are ours: a short training stays stable with them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.training.classifier import jittered
from harness.errors import UserError
from harness.training import Trainer, as_used, logits_of


class JEM(Trainer):
    """Minimises -log p(x, y), the samples of p(x) drawn anew for every batch.

    Args:
        steps: of the chains, per batch.
        step_size, temperature: of the chains, on images in [-1, 1].
        weight: of the generative term.
        regularisation: of the energies' size.
        noise: standard deviation of the noise on the training images, on [-1, 1].
        buffer: samples kept; part of the run's state.
        restart: probability that a chain starts from noise.
        shift: images are moved by up to so many pixels along each axis.

    Raises:
        UserError: an argument that means nothing.
    """

    def __init__(
        self,
        steps: int = 20,
        step_size: float = 1.0,
        temperature: float = 0.01,
        weight: float = 1.0,
        regularisation: float = 0.0,
        noise: float = 0.03,
        buffer: int = 10000,
        restart: float = 0.05,
        shift: int = 0,
    ) -> None:
        counts = {"steps": steps, "buffer": buffer}
        amounts = {"weight": weight, "regularisation": regularisation, "noise": noise, "shift": shift}
        faults = [f"{name} is {value}" for name, value in counts.items() if value < 1]
        faults += [f"{name} is {value}" for name, value in amounts.items() if value < 0]
        faults += [] if 0 <= restart <= 1 else [f"restart is {restart}"]
        if faults:
            raise UserError(
                ", ".join(faults), remedy="Counts are positive, amounts are not negative, restart is a probability"
            )
        self.steps, self.step_size, self.temperature = steps, step_size, temperature
        self.weight, self.regularisation, self.noise = weight, regularisation, noise
        self.size, self.restart, self.shift = buffer, restart, shift
        self.buffer: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        return {} if self.buffer is None else {"buffer": self.buffer}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.buffer = state["buffer"]

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        samples = self._samples(network, x)
        images = 2 * jittered(x, self.shift) - 1
        logits = _logits(network, images + self.noise * torch.randn(x.shape).to(x))
        real, drawn = -logits.logsumexp(1), energy(network, samples)
        generative = real.mean() - drawn.mean()
        size = real.square().mean() + drawn.square().mean()
        return F.cross_entropy(logits, y) + self.weight * generative + self.regularisation * size

    def _samples(self, network: nn.Module, like: Tensor) -> Tensor:
        """Images in [-1, 1], as many as `like` (N, C, H, W), from chains that the buffer keeps."""
        if self.buffer is None:
            self.buffer = _uniform(self.size, like)
        rows = torch.randperm(self.size)[: len(like)]
        fresh = torch.rand(len(rows)) < self.restart
        start = torch.where(fresh[:, None, None, None], _uniform(len(rows), like), self.buffer[rows]).to(like)
        with as_used(network):
            samples = langevin(lambda u: energy(network, u), start, self.steps, self.step_size, self.temperature)
        self.buffer[rows] = samples.cpu()
        return samples


def energy(network: nn.Module, images: Tensor) -> Tensor:
    """E, (N,), of images (N, C, H, W) in [-1, 1]."""
    return -_logits(network, images).logsumexp(1)


def langevin(
    energy: Callable[[Tensor], Tensor], start: Tensor, steps: int, step_size: float, temperature: float
) -> Tensor:
    """The ends of chains that begin at `start`, both (N, C, H, W) in [-1, 1]. energy: images to (N,)."""
    u = start
    for _ in range(steps):
        u = u.detach().requires_grad_()
        (grad,) = torch.autograd.grad(energy(u).sum(), u)
        u = (u.detach() - step_size * grad + temperature * torch.randn(u.shape).to(u)).clamp(-1, 1)
    return u.detach()


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return logits_of(network, (images + 1) / 2)


def _uniform(count: int, like: Tensor) -> Tensor:
    """Noise in [-1, 1), on the CPU: (count, C, H, W)."""
    return 2 * torch.rand(count, *like.shape[1:]) - 1
