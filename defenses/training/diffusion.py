"""Class-conditional diffusion training with classifier-free guidance dropout (paper Eq. 2; Ho and Salimans, 2022).

    loss = E_{t, eps} || eps_theta(sqrt(alpha_t) x~ + sigma_t eps, t, y) - eps ||^2 / (C H W),    x~ = 2 x - 1

with t uniform over 1..T, and y replaced by "no class" for a share of the images, so that one network is both the
conditional and the unconditional model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NO_CLASS, DiscreteVP
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from harness.errors import UserError
from harness.training import Trainer


class Diffusion(Trainer):
    """Trains a noise predictor (x_t, labels, y) -> eps on the discrete VP diffusion, for `DiscreteVP` denoisers.

    Args:
        label_dropout: share of images whose class is withheld.
        timesteps: T' of the diffusion classifier that measures the clean accuracy.

    Raises:
        UserError: a share outside [0, 1).
    """

    def __init__(self, label_dropout: float = 0.1, timesteps: int = 10) -> None:
        if not 0 <= label_dropout < 1:
            raise UserError(f"label_dropout is {label_dropout}", remedy="It is a share, at least 0 and less than 1")
        self.label_dropout = label_dropout
        self.schedule = discrete_vp()
        self.grid = time_grid(self.schedule, timesteps)
        self.measured = f"diffusion classifier, {timesteps} uniform timesteps, noise shared over classes"

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        t = torch.randint(1, len(self.schedule) + 1, (len(x),))
        eps = torch.randn(x.shape)
        withheld = torch.rand(len(x)) < self.label_dropout
        signal, sigma = self.schedule.signal(t).to(x), self.schedule.sigma(t).to(x)
        eps, labels = eps.to(x), y.masked_fill(withheld.to(y.device), NO_CLASS)
        x_t = signal[:, None, None, None] * (2 * x - 1) + sigma[:, None, None, None] * eps
        found = network(x_t, t.to(x.device) - 1, labels)
        return (found - eps).square().mean()

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        classes = torch.arange(num_classes, device=x.device)
        seeds = torch.randint(2**62, (len(x),)).to(x.device)
        return -DiffusionLoss(DiscreteVP(network), self.grid, GaussianNoise("classes"))(x, classes, seeds)
