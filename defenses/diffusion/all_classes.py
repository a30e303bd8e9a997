"""Sums of many terms that give all classes of an image at once, and their exact gradient, in the memory of one chunk.

    L[n, :] = sum_{j < J} f(x_n; n, j),    f in R^K

With f a network of K heads, evaluating one class costs as much as all of them. The gradient of a loss with
dloss/dL = g is pulled back through all at once too:

    dloss/dx_n = sum_j Df(x_n; n, j)^T g[n, :]

A forward pass keeps no graph. The backward pass evaluates the chunks of images x terms with g[n, :] != 0 again, each
with a graph of its own. If an evaluation of f costs 1 and one with its gradient 2.2, that is 3.2 per image and term,
whatever the loss and K. `exact_gradient` is for an f that is evaluated for each class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.process import waits


class ClassTerms(Protocol):
    """f, summed over the terms it is given. Differentiable in x; a row's values depend on that row's image only."""

    def __call__(self, x: Tensor, images: Tensor, terms: Tensor) -> Tensor:
        """Partial sums of P images.

        Args:
            x: the images, (P, C, H, W).
            images: n of each, (P,) int64.
            terms: which j to sum over, (J',) int64.

        Returns:
            (P, K).
        """


@dataclass(frozen=True)
class AllClassesSum:
    """L as a function of x that can be differentiated once; `create_graph=True` raises RuntimeError.

    Args:
        terms: f.
        num_classes, num_terms: K and J.
        chunk: images x terms evaluated at once, at most.
    """

    terms: ClassTerms
    num_classes: int
    num_terms: int
    chunk: int

    def __call__(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> L (N, K)."""
        sums: Tensor = _Function.apply(x, self)
        return sums

    def values(self, x: Tensor) -> Tensor:
        """L, (N, K), without a graph."""
        sums = x.new_zeros(len(x), self.num_classes)
        with torch.no_grad():
            for images, terms in self._chunks(torch.arange(len(x), device=x.device)):
                sums[images] += self.terms(x[images], images, terms)
        return sums

    def pull_back(self, x: Tensor, weights: Tensor) -> Tensor:
        """sum_k weights[n, k] dL[n, k]/dx_n, (N, C, H, W); images whose weights are all zero are not evaluated."""
        gradients = torch.zeros_like(x)
        for images, terms in self._chunks(waits.rows(weights.any(1))):
            with torch.enable_grad():
                own = x.detach()[images].requires_grad_()
                values = self.terms(own, images, terms)
                (gradient,) = torch.autograd.grad(values, own, weights[images])
            gradients[images] += gradient
        return gradients

    def _chunks(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of images x terms, at most `chunk` evaluations each. images: (P,) int64."""
        parts = torch.arange(self.num_terms, device=images.device).chunk(math.ceil(self.num_terms / self.chunk))
        for some in images.split(max(1, self.chunk // self.num_terms)):
            for terms in parts:
                yield some, terms


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, total: AllClassesSum) -> Tensor:
        ctx.total = total
        ctx.save_for_backward(x)
        return total.values(x)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # create_graph=True: the gradient would be taken for a constant
            raise RuntimeError("a chunked sum can be differentiated once only")
        (x,) = ctx.saved_tensors
        return ctx.total.pull_back(x, weights), None
