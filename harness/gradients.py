"""Ways to differentiate a defense. All have the defense's own forward values, except `blind`.

exact   the defense itself, purification included
bpda    forward: purify, then classify; backward: `purify_surrogate` in place of purify (Athalye et al., 2018)
adjoint forward: purify, then classify; backward: the adjoint equation's approximation of purify's derivative, where a
        defense offers it (`purify_adjoint`; Nie et al., 2022). Labelled approximate: `exact` is the derivative
straight_through, tanh
        forward: purify, then classify; backward: the same, with a surrogate for the derivative of the sign that
        `purify` takes, where a defense offers it (`purify_with_surrogate`). The derivative of a sign is zero
blind   the classifier alone: the attacker does not know that images are purified
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from harness.defense import Defense, SignSurrogate

Gradient = Literal["exact", "bpda", "adjoint", "blind", "straight_through", "tanh"]

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


def sign_surrogate(surrogate: SignSurrogate, defense: Defense, x: Tensor) -> Tensor:
    return defense.classify(defense.purify_with_surrogate(x, surrogate))


def missing(defense: Defense, gradient: Gradient) -> str | None:
    """The method that a view needs and `defense` does not have, or None."""
    if gradient == "adjoint" and type(defense).purify_adjoint is Defense.purify_adjoint:
        return "purify_adjoint(x)"
    if gradient in get_args(SignSurrogate) and gradient not in defense.sign_surrogates():
        return f"purify_with_surrogate(x, {gradient!r})"
    return None


class _Substitute(torch.autograd.Function):
    """The value of the first, to the bit, with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, differentiated: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


VIEWS: dict[Gradient, View] = {
    "exact": exact,
    "bpda": bpda,
    "adjoint": adjoint,
    "blind": blind,
    "straight_through": partial(sign_surrogate, "straight_through"),
    "tanh": partial(sign_surrogate, "tanh"),
}
