"""How rough a flow is (StAdv: Xiao et al., 2018, Eq. 4), and Adam for flows that leave the batch one by one.

    TV(f) = sum over pixels p, and the four neighbours q of p, of sqrt(|f_p - f_q|^2 + 1e-10)

A pixel of the border is its own missing neighbour, so that TV(0) = 4 H W 1e-5. Each pair of neighbours counts twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_UNDER_ROOT = 1e-10
"""Keeps the root differentiable where neighbouring pixels move by the same flow."""

MOMENTUM = 0.9
_BETAS, _DIVISOR = (MOMENTUM, 0.999), 1e-8


def roughness(flow: Tensor) -> Tensor:
    """TV of each flow, (N,), in the flow's own units. flow: (N, H, W, 2)."""
    padded = F.pad(flow.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    centre = padded[..., 1:-1, 1:-1]
    above, below = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    squares = torch.stack([(centre - neighbour).square().sum(1) for neighbour in (above, below, left, right)], dim=1)
    return (squares + _UNDER_ROOT).sqrt().flatten(1).sum(1)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, 2015) with its usual constants; the rows of some images can be dropped from its state.

    Attributes:
        mean, square: running moments of the gradient, of its shape.
        step: the number of updates made so far.
    """

    mean: Tensor
    square: Tensor
    step: int = 0

    @classmethod
    def of(cls, like: Tensor) -> Adam:
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def updated(self, grad: Tensor, lr: float) -> tuple[Tensor, Adam]:
        """The move that lowers the loss, and the state after it."""
        step = self.step + 1
        mean = self.mean.lerp(grad, 1 - _BETAS[0])
        square = _BETAS[1] * self.square + (1 - _BETAS[1]) * grad.square()
        scale = (square / (1 - _BETAS[1] ** step)).sqrt() + _DIVISOR
        return -lr / (1 - _BETAS[0] ** step) * mean / scale, Adam(mean, square, step)

    def take(self, which: Tensor) -> Adam:
        """The state of some rows only. which: their indices, (M,) int64, or (N,) bool."""
        return Adam(self.mean[which], self.square[which], self.step)
