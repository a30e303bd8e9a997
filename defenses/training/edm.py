"""EDM training with classifier-free guidance dropout (Karras et al., 2022, arXiv:2206.00364, Eq. 8 and Table 1).

    loss = E_{sigma, eps} lambda(sigma) || D(x~ + sigma eps; sigma, y) - x~ ||^2 / (C H W),    x~ = 2 x - 1

    ln sigma ~ N(P_mean, P_std^2),    lambda(sigma) = (sigma^2 + s^2) / (sigma s)^2,    s = sigma_data

lambda = 1 / c_out^2: the target of the U-Net inside D has unit variance at every sigma, and every sigma weighs the
same. y is replaced by "no class" for a share of the images, so that one network is both the conditional and the
unconditional model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import EDMDenoiser
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from defenses.training.diffusion import classified, how_classified, share, without_class
from harness.errors import UserError
from harness.training import Trainer


class EDM(Trainer):
    """Trains a class-conditional denoiser D(x; sigma, y): the networks `edm` and `flow_vit`.

    Args:
        label_dropout: share of images whose class is withheld; if any are, the network says `knows_no_class: true`.
        p_mean, p_std: of ln sigma; the defaults are the published ones.
        timesteps: of the diffusion classifier that measures the clean accuracy: T' uniform ones, or a list.
        sigma_data: s, for a network that has none of its own, such as `flow_vit`: the standard deviation of the pixels
            of x~.

    Raises:
        UserError: a share outside [0, 1), or a p_std or sigma_data that is not positive.
    """

    def __init__(
        self,
        label_dropout: float = 0.1,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        timesteps: int | list[int] = 10,
        sigma_data: float | None = None,
    ) -> None:
        for name, value in {"p_std": p_std, "sigma_data": sigma_data}.items():
            if value is not None and value <= 0:
                raise UserError(f"{name} is {value}", remedy="It is a standard deviation, and must be positive")
        self.label_dropout = share(label_dropout)
        self.p_mean, self.p_std, self.sigma_data = p_mean, p_std, sigma_data
        self.schedule = discrete_vp()
        self.grid = time_grid(self.schedule, timesteps)
        self.measured = how_classified(timesteps)

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self._refuse_unlike(network)
        s = self._sigma_data(network)
        sigma = (self.p_mean + self.p_std * torch.randn(len(x))).exp().to(x)
        eps = torch.randn(x.shape).to(x)
        labels = without_class(y, self.label_dropout)
        clean = 2 * x - 1
        denoised = network(clean + sigma[:, None, None, None] * eps, sigma, labels)
        weight = (sigma**2 + s**2) / (sigma * s) ** 2
        return (weight * (denoised - clean).square().mean((1, 2, 3))).mean()

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        self._refuse_unlike(network)
        return classified(EDMDenoiser(network, self.schedule), self.grid, x, num_classes)

    def _refuse_unlike(self, network: nn.Module) -> None:
        """Raises UserError for a network that this trainer is not for."""
        if getattr(network, "predicts", None) != "edm" or not getattr(network, "num_classes", None):
            raise UserError(
                "the trainer 'edm' is for class-conditional denoisers",
                remedy="Use a network `edm` with a label_dim, or a `flow_vit`",
            )
        claims = bool(getattr(network, "knows_no_class", False))
        if claims != (self.label_dropout > 0):
            raise UserError(
                f"label_dropout is {self.label_dropout}, and the network says knows_no_class {claims}",
                remedy="Write `knows_no_class: true` under `network:` where classes are withheld, and only there; "
                "from a `flow_vit`, withhold some",
            )

    def _sigma_data(self, network: nn.Module) -> float:
        """s. Raises UserError where neither the network nor the recipe says it, or both do."""
        own, name = getattr(network, "sigma_data", None), type(network).__name__
        if own is not None and self.sigma_data is not None:
            raise UserError(f"{name} has a sigma_data of its own, {own}", remedy="Leave it out of `trainer:`")
        s = self.sigma_data if own is None else own
        if s is None:
            raise UserError(
                f"{name} does not say its sigma_data",
                remedy="Write `sigma_data: ...` under `trainer:`, the standard deviation of the pixels of 2 x - 1",
            )
        return float(s)
