"""Lower bounds on the margins of small ReLU networks within a Linf budget, by linear relaxation.

A neuron whose input z is in [l, u], l < 0 < u, lies between two parallel lines (Wong and Kolter, 2018):

    s z <= relu(z) <= s (z - l),    s = u / (u - l)

Passing from the last layer to the first, the margin is bounded below by a linear function of the image, whose least
value in the budget and in [0, 1] is known. Bounds l and u of every layer are found in the same way. Everything is
computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def certified_margins(network: nn.Sequential, x: Tensor, y: int, eps: float) -> Tensor:
    """Lower bounds of logit y minus every other logit, (K - 1,), on all images within eps of x, clipped to [0, 1].

    Args:
        network: affine layers, `nn.ReLU` and `nn.Flatten`.
        x: one image, (C, H, W) in [0, 1].
        y: its label.
        eps: the Linf budget.
    """
    low, high = (x.double() - eps).clamp(min=0).flatten(), (x.double() + eps).clamp(max=1).flatten()
    layers = [(weight.double(), bias.double()) for weight, bias in _affine(network, x.shape)]
    bounds: list[tuple[Tensor, Tensor]] = []
    for depth, (weight, bias) in enumerate(layers[:-1]):
        below = layers[:depth]
        bounds.append(
            (_least(weight, bias, below, bounds, low, high), -_least(-weight, -bias, below, bounds, low, high))
        )
    weight, bias = layers[-1]
    others = [k for k in range(len(bias)) if k != y]
    return _least(weight[y] - weight[others], bias[y] - bias[others], layers[:-1], bounds, low, high)


def _affine(network: nn.Sequential, shape: torch.Size) -> list[tuple[Tensor, Tensor]]:
    """The affine layers as matrices, (outputs, inputs), and vectors."""
    found, now = [], torch.zeros(1, *shape)
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bias = layer(torch.zeros_like(now))
            basis = torch.eye(now.numel()).view(-1, *now.shape[1:])
            found.append(((layer(basis) - bias).flatten(1).T, bias.flatten()))
            now = bias
        elif isinstance(layer, nn.Flatten):
            now = now.flatten(1)
        elif not isinstance(layer, nn.ReLU):
            raise TypeError(f"no bounds are known for {type(layer).__name__}")
    return found


def _least(
    a: Tensor,
    b: Tensor,
    layers: list[tuple[Tensor, Tensor]],
    bounds: list[tuple[Tensor, Tensor]],
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Lower bounds of a relu(z) + b, (M,), z being the last of `layers`; of a x + b if there is none."""
    for (weight, bias), (lowest, highest) in zip(reversed(layers), reversed(bounds[: len(layers)]), strict=True):
        below, above = lowest.clamp(max=0), highest.clamp(min=0)
        slope = above / (above - below).clamp(min=1e-300)
        b = b - a.clamp(max=0) @ (slope * below)
        a = a * slope
        a, b = a @ weight, b + a @ bias
    return a.clamp(min=0) @ low + a.clamp(max=0) @ high + b
