"""Noise predictors under one protocol, whatever their networks expect.

The network is trained to find eps in x_t = sqrt(alpha_t) x + sigma_t eps, for class y or for no class in particular
(classifier-free guidance). How timesteps and the missing class are put to a network is its adapter's business alone.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

NO_CLASS = -1
"""The label of a row that has no class: the paper's y = empty set."""


class Denoiser(Protocol):
    """eps_theta(x_t, t, y)."""

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The noise in x_t.

        Args:
            x_t: noisy images, (M, C, H, W), around [-1, 1].
            t: timesteps, (M,) int64 in 1..T.
            y: classes, (M,) int64 in 0..K-1, or `NO_CLASS`.

        Returns:
            (M, C, H, W).
        """


class DiscreteVP(nn.Module):
    """A network trained on `discrete_vp`: its time label is t - 1, on the scale 0..999; it takes `NO_CLASS` as it is.

    Args:
        network: (x_t, labels, y) -> eps, such as `NCSNpp`. It is frozen and set to evaluation.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        eps: Tensor = self.network(x_t, t - 1, y)
        return eps
