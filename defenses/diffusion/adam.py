"""Likelihood maximisation by Adam (Kingma & Ba, 2015), as in the released code of the paper.

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2            g = grad_x loss(x^), b1 = 0.9, b2 = 0.999
    x^ <- clip_eta(x^ - lr m' / (sqrt(v') + 1e-8)),    m' = m / (1 - b1^n),  v' = v / (1 - b2^n)        n = 1..N

clip_eta keeps x^ within eta of x; [0, 1] is enforced once, at the end. Everything is differentiated: autograd follows m
and v, and the derivative of g brings Hessians times vectors (see `chunked_gradient`). The first step is nearly a sign,
and as flat.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.threat import L2, Pixels

MEAN, SQUARE, TINY = 0.9, 0.999, 1e-8
"""b1, b2 and the term that keeps the division finite: PyTorch's defaults."""

LEARNING_RATE = 0.05
"""The rate of the released code, whose 0.1 is for images in [-1, 1]."""


def maximize_by_adam(
    x: Tensor, gradient: Callable[[Tensor, int], Tensor], *, ball: Pixels, steps: int, learning_rate: float
) -> Tensor:
    """Images of higher likelihood.

    Args:
        x: images, (N, C, H, W) in [0, 1].
        gradient: (images, n) -> gradient of the unconditional diffusion loss at step n = 0..N-1, of the same shape.
        ball: how far x may move, in Linf or L2.
        steps: N.
        learning_rate: lr, for images in [0, 1].

    Returns:
        (N, C, H, W) in [0, 1], within the ball around x; as differentiable in x as `gradient` is.
    """
    moved, m, v = x, torch.zeros_like(x), torch.zeros_like(x)
    for n in range(steps):
        g = gradient(moved, n)
        m = MEAN * m + (1 - MEAN) * g
        v = SQUARE * v + (1 - SQUARE) * g * g
        mean, square = m / (1 - MEAN ** (n + 1)), v / (1 - SQUARE ** (n + 1))
        moved = _clip(x, moved - learning_rate * mean / (_root(square) + TINY), ball)
    return moved.clamp(0, 1)


def _root(v: Tensor) -> Tensor:
    """The square root; of 0 it is 0, with a finite derivative."""
    return torch.where(v > 0, v, 1).sqrt() * (v > 0)


def _clip(x: Tensor, moved: Tensor, ball: Pixels) -> Tensor:
    """The point within the ball that is nearest to `moved`."""
    eps = float(ball.eps)
    if not isinstance(ball, L2):
        return torch.minimum(torch.maximum(moved, x - eps), x + eps)
    change = moved - x
    norm = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True)
    return torch.where(norm > eps, x + change * (eps / torch.where(norm > eps, norm, 1)), moved)
