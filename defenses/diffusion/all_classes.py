"""Sums of many terms that give all classes of an image at once, and their exact gradient, in the memory of one chunk.

    L[n, :] = sum_{j < J} f(x_n; n, j),    f in R^K

With f a network of K heads, evaluating one class costs as much as all of them. The gradient of a loss with
dloss/dL = g is pulled back through all at once too:

    dloss/dx_n = sum_j Df(x_n; n, j)^T g[n, :]

A forward pass keeps the graphs of as many chunks of images x terms as memory is allowed for. The backward pass
evaluates the others with g[n, :] != 0 again, each with a graph of its own. If an evaluation of f costs 1 and one with
its gradient 2.2, that is 2.2 per image and term that was kept and 3.2 for another, whatever the loss and K.
`chunked_gradient` is for an f that is evaluated for each class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from defenses.diffusion.graph_memory import Keeper
from defenses.diffusion.once import refuse_second_derivative
from harness.process import waits
from harness.process.pull_back import pull_back


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
        allowed: bytes of graphs that may be kept for the backward pass.
    """

    terms: ClassTerms
    num_classes: int
    num_terms: int
    chunk: int
    allowed: float = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> L (N, K)."""
        sums: Tensor = _Function.apply(x, self, Keeper(self.allowed))
        return sums

    def values(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """L, (N, K), without a graph; or a part of it, the sum over the terms `only` (J',)."""
        sums = x.new_zeros(len(x), self.num_classes)
        with torch.no_grad():
            for images, terms in self._chunks(torch.arange(len(x), device=x.device), only):
                sums[images] += self.terms(x[images], images, terms)
        return sums

    def values_and_graphs(self, x: Tensor, keeper: Keeper) -> tuple[Tensor, list[_Kept]]:
        """L, (N, K), without a graph, and the graphs of the first chunks."""
        sums, kept = x.new_zeros(len(x), self.num_classes), []
        for images, terms in self._chunks(torch.arange(len(x), device=x.device)):
            if keeper.has_room:
                with keeper.building():
                    own, values = self._differentiable(x, images, terms)
                if not keeper.overdrawn:
                    kept.append(_Kept(own, values))
            else:
                with torch.no_grad():
                    values = self.terms(x[images], images, terms)
            sums[images] += values.detach()
        return sums, kept

    def pull_back(self, x: Tensor, weights: Tensor, kept: Sequence[_Kept] = ()) -> Tensor:
        """sum_k weights[n, k] dL[n, k]/dx_n, (N, C, H, W).

        Args:
            x: images, (N, C, H, W).
            weights: (N, K); images whose weights are all zero are not evaluated again.
            kept: graphs of the first chunks of all images, which need not be made again.
        """
        gradients = torch.zeros_like(x)
        every = torch.arange(len(x), device=x.device)
        for place, (images, terms) in enumerate(self._chunks(every if kept else waits.rows(weights.any(1)))):
            own, values = kept[place] if place < len(kept) else self._differentiable(x, images, terms)
            (gradient,) = pull_back([values], [own], [weights[images]])
            gradients[images] += gradient
        return gradients

    def _differentiable(self, x: Tensor, images: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
        """The images, (P, C, H, W), and their partial sums with a graph, (P, K)."""
        with torch.enable_grad():
            own = x.detach()[images].requires_grad_()
            return own, self.terms(own, images, terms)

    def _chunks(self, images: Tensor, only: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of images x terms, at most `chunk` evaluations each. images: (P,) int64."""
        every = torch.arange(self.num_terms, device=images.device) if only is None else only
        parts = every.chunk(math.ceil(len(every) / self.chunk))
        for some in images.split(max(1, self.chunk // len(every))):
            for terms in parts:
                yield some, terms


class _Kept(NamedTuple):
    """A chunk's images, (P, C, H, W), and its partial sums with their graph, (P, K)."""

    own: Tensor
    values: Tensor


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, total: AllClassesSum, keeper: Keeper) -> Tensor:
        sums, ctx.kept = total.values_and_graphs(x, keeper)
        ctx.total = total
        ctx.save_for_backward(x)
        return sums

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("a chunked sum")
        (x,) = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, []  # graphs serve once; whoever asks again has them made again
        return ctx.total.pull_back(x, weights, kept), None, None
