"""HybViT: one network learns to classify and to denoise (Yang et al. 2022, arXiv:2208.07791, Sec. 3).

    loss = CE(f(x), y) + weight E_{t, eps} || eps_theta(x_t, t) - eps ||^2 / (C H W)
    x_t  = sqrt(abar_t) x + sqrt(1 - abar_t) eps,    t uniform over 0..T-1, x in [-1, 1]

Classes are learnt on clean images, without a timestep; the noise is estimated without a class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.networks import hybvit
from defenses.training.classifier import jittered
from harness.errors import UserError
from harness.training import Trainer, normalised


class HybViT(Trainer):
    """Trains a `hybvit` network on the sum of both losses.

    Args:
        weight: of the denoising loss; the paper gives both the same.
        shift: images are moved by up to so many pixels along each axis.

    Raises:
        UserError: a negative weight or shift.
    """

    def __init__(self, weight: float = 1.0, shift: int = 0) -> None:
        if weight < 0 or shift < 0:
            raise UserError(f"weight is {weight} and shift is {shift}", remedy="Neither may be negative")
        self.weight, self.shift = weight, shift

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if not isinstance(network, hybvit.HybViT):
            raise UserError(
                f"{type(network).__name__} does not denoise as HybViT does",
                remedy="Write `network: {type: hybvit, ...}`",
            )
        images = normalised(network, jittered(x, self.shift))
        t = torch.randint(len(network.sqrt_alphas_cumprod), (len(x),)).to(x.device)
        eps = torch.randn(x.shape).to(x)
        denoising = F.mse_loss(network.noise_estimate(network.add_noise(images, t, eps), t), eps)
        return F.cross_entropy(network(images), y) + self.weight * denoising
