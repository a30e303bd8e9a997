"""The gradient that a step of a purifier follows, which an attacker differentiates once more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def inner_gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of f, image by image, whether or not gradients are enabled around the call.

    Where they are, and x requires one, the result can be differentiated in x and in whatever else f depends on: the
    second derivatives of f are exact.

    Args:
        f: images (N, C, H, W) -> (N,), each number of its own image alone.
        x: images, (N, C, H, W).

    Returns:
        (N, C, H, W).

    Example:
        >>> x = torch.ones(1, 1, 1, 2, requires_grad=True)
        >>> gradient = inner_gradient(lambda x: x.pow(3).sum((1, 2, 3)), x)
        >>> gradient.flatten().tolist(), torch.autograd.grad(gradient.sum(), x)[0].flatten().tolist()
        ([3.0, 3.0], [6.0, 6.0])
    """
    differentiable = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        own = x if differentiable else x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(f(own).sum(), own, create_graph=differentiable)
    return gradient
