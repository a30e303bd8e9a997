"""Ways to differentiate a defense. All have the defense's own forward values, except `blind`.

exact   the defense itself, purification included
bpda    forward: purify, then classify; backward: `purify_surrogate` in place of purify (Athalye et al., 2018)
adjoint forward: purify, then classify; backward: the adjoint equation's approximation of purify's derivative, where a
        defense offers it (`purify_adjoint`; Nie et al., 2022). Labelled approximate: `exact` is the derivative
blind   the classifier alone: the attacker does not know that images are purified
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from harness.defense import Defense

Gradient = Literal["exact", "bpda", "adjoint", "blind"]

View = Callable[[Defense, Tensor], Tensor]
"""Images (N, C, H, W) to logits (N, K), through a defense."""


def exact(defense: Defense, x: Tensor) -> Tensor:
    return defense(x)


def bpda(defense: Defense, x: Tensor) -> Tensor:
    with torch.no_grad():
        purified = defense.purify(x.detach().clone())  # NumPy refuses a tensor that asks for a gradient, even here
    return defense.classify(_Substitute.apply(purified, defense.purify_surrogate(x)).clone())  # it may write into both


def adjoint(defense: Defense, x: Tensor) -> Tensor:
    return defense.classify(defense.purify_adjoint(x))


def blind(defense: Defense, x: Tensor) -> Tensor:
    return defense.classify(x)


class _Substitute(torch.autograd.Function):
    """The value of the first, to the bit, with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, differentiated: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


VIEWS: dict[Gradient, View] = {"exact": exact, "bpda": bpda, "adjoint": adjoint, "blind": blind}
