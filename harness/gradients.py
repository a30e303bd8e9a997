"""Ways to differentiate a defense. All of them return the defense's own logits, except `blind`.

exact   the defense itself, purification included
bpda    forward: purify, then classify; backward: `purify_surrogate` in place of purify (Athalye et al., 2018)
adjoint forward: purify, then classify; backward: the adjoint equation's approximation of purify's derivative, where a
        defense provides it (`purify_adjoint`; Nie et al., 2022). It is an approximation; `exact` is the derivative
straight_through, tanh
        forward: purify, then classify; backward: the same, with a surrogate for the derivative of the sign function in
        `purify`, where a defense provides it (`purify_with_surrogate`). The derivative of a sign is zero
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
        purified = defense.purify(x.detach().clone())  # NumPy rejects tensors that require a gradient, even in no_grad
    # clones, because the defense may write into its input
    return defense.classify(_Substitute.apply(purified, defense.purify_surrogate(x)).clone())


def adjoint(defense: Defense, x: Tensor) -> Tensor:
    return defense.classify(defense.purify_adjoint(x))


def blind(defense: Defense, x: Tensor) -> Tensor:
    return defense.classify(x)


def sign_surrogate(surrogate: SignSurrogate, defense: Defense, x: Tensor) -> Tensor:
    return defense.classify(defense.purify_with_surrogate(x, surrogate))


def missing(defense: Defense, gradient: Gradient) -> str | None:
    """The method that a view needs and `defense` does not have, or None."""
    if gradient == "adjoint" and not defense.defines("purify_adjoint"):
        return "purify_adjoint(x)"
    if gradient in get_args(SignSurrogate) and gradient not in defense.sign_surrogates():
        return f"purify_with_surrogate(x, {gradient!r})"
    return None


def leads_to(output: Tensor, x: Tensor) -> bool:
    """Whether the graph of `output` leads to x, which may be a leaf of it or not."""
    pending, seen = [output.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node is x.grad_fn or getattr(node, "variable", None) is x:
            return True
        seen.add(node)
        pending += [parent for parent, _ in node.next_functions]
    return False


class _Substitute(torch.autograd.Function):
    """Returns the first argument bit by bit, and passes the gradient to the second."""

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
