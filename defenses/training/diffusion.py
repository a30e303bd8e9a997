"""Class-conditional diffusion training with classifier-free guidance dropout (paper Eq. 2; Ho and Salimans, 2022).

    loss = E_{t, eps} || eps_theta(sqrt(alpha_t) x~ + sigma_t eps, t, y) - eps ||^2 / (C H W),    x~ = 2 x - 1

with t uniform over 1..T, and y replaced by "no class" for a share of the images, so that one network is both the
conditional and the unconditional model.

What the diffusion trainers share is here too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NO_CLASS, Denoiser, DiscreteVP
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import Schedule, discrete_vp
from defenses.diffusion.timesteps import TimeGrid, time_grid
from harness.errors import UserError
from harness.training import Trainer


class Diffusion(Trainer):
    """Trains a noise predictor (x_t, labels, y) -> eps on the discrete VP diffusion, for `DiscreteVP` denoisers.

    Args:
        label_dropout: share of images whose class is withheld.
        timesteps: of the diffusion classifier that measures the clean accuracy: T' uniform ones, or a list.

    Raises:
        UserError: a share outside [0, 1).
    """

    def __init__(self, label_dropout: float = 0.1, timesteps: int | list[int] = 10) -> None:
        self.label_dropout = share(label_dropout)
        self.schedule = discrete_vp()
        self.grid = time_grid(self.schedule, timesteps)
        self.measured = how_classified(timesteps)

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_t, t, eps = noised(x, self.schedule)
        predicted = network(x_t, self.schedule.label(t), without_class(y, self.label_dropout))
        return (predicted - eps).square().mean()

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        return classified(DiscreteVP(network), self.grid, x, num_classes)


def share(label_dropout: float) -> float:
    """The share itself. Raises UserError where it is outside [0, 1)."""
    if not 0 <= label_dropout < 1:
        raise UserError(f"label_dropout is {label_dropout}", remedy="It is a share, at least 0 and less than 1")
    return label_dropout


def noised(x: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t and eps, drawn from the global generator: images (N, C, H, W) at timesteps (N,) uniform over 1..T."""
    t = torch.randint(1, len(schedule) + 1, (len(x),))
    eps = torch.randn(x.shape).to(x)
    signal, sigma = schedule.signal(t).to(x), schedule.sigma(t).to(x)
    return signal[:, None, None, None] * (2 * x - 1) + sigma[:, None, None, None] * eps, t.to(x.device), eps


def without_class(y: Tensor, label_dropout: float) -> Tensor:
    """Labels (N,) int64 with `NO_CLASS` in place of a share of them, drawn from the global generator."""
    withheld = torch.rand(len(y)) < label_dropout
    return y.masked_fill(withheld.to(y.device), NO_CLASS)


def classified(denoiser: Denoiser, grid: TimeGrid, x: Tensor, num_classes: int) -> Tensor:
    """Logits (N, K) of the diffusion classifier (Eq. 6), its noise shared over classes: a plain measure of a network.

    Args:
        x: images, (N, C, H, W) in [0, 1].
        num_classes: K.
    """
    classes = torch.arange(num_classes, device=x.device)
    seeds = torch.randint(2**62, (len(x),)).to(x.device)
    return -DiffusionLoss(denoiser, grid, GaussianNoise("classes"))(x, classes, seeds)


def how_classified(timesteps: int | list[int]) -> str:
    """`classified` in a card's words."""
    plural = "" if timesteps == 1 else "s"
    which = f"{timesteps} uniform timestep{plural}" if isinstance(timesteps, int) else f"timesteps {timesteps}"
    return f"diffusion classifier, {which}, noise shared over classes"
