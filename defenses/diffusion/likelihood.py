"""Likelihood maximisation (paper Sec. 3.4, Eq. 8, Algorithm 1): an image moves to where its diffusion loss is lower.

    m <- mu m - g / ||g||_1,    g = grad_x loss(x^)          (unconditional loss, fresh noise at every step)
    x^ <- clip(x^ + gamma sign(m)),    gamma = eta / N       N times, from x^ = x and m = 0

clip keeps x^ within eta of the original x in every pixel, and in [0, 1]. The L1 norm is that of one image.

The derivative: sign is flat almost everywhere, so dx^/dx is what the clips leave of the identity. A pixel passes its
gradient on unless it was stopped by 0 or 1 (the ball moves with x). This is what autograd finds here, without any
second derivative of the network; it equals BPDA with the identity, but for the pixels stopped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def maximize_likelihood(
    x: Tensor, gradient: Callable[[Tensor, int], Tensor], *, eta: float, steps: int, momentum: float = 1.0
) -> Tensor:
    """Algorithm 1, lines 1 to 6.

    Args:
        x: images, (N, C, H, W) in [0, 1].
        gradient: (images, n) -> gradient of the unconditional diffusion loss at step n = 0..N-1, of the same shape.
        eta: radius of the Linf ball around x.
        steps: N.
        momentum: mu.

    Returns:
        (N, C, H, W) in [0, 1], within eta of x; differentiable in x as said above.
    """
    purified, m = x, torch.zeros_like(x)
    for n in range(steps):
        g = gradient(purified.detach(), n)
        norm = g.abs().sum((1, 2, 3), keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
        m = momentum * m - g / norm
        moved = purified + (eta / steps) * m.sign()
        purified = torch.minimum(torch.maximum(moved, x - eta), x + eta).clamp(0, 1)
    return purified
