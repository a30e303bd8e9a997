"""Sums of many terms per image and class, and their exact gradient, in the memory of one chunk.

    L[n, k] = sum_{j < J} f(x_n; n, k, j)

With f a network, autograd would keep N K J of its graphs. Here a forward pass keeps none: it walks over chunks of
(n, k) pairs x terms j. The gradient of a loss with dloss/dL = g is

    dloss/dx_n = sum_k g[n, k] sum_j df/dx(x_n; n, k, j)

    two      the backward pass evaluates the chunks of pairs with g[n, k] != 0 again, each with a graph of its own;
             margin losses have A = 2 such classes per image, DLR up to 4, cross-entropy K
    single   the forward pass differentiates each chunk at once and keeps sum_j df/dx, an image for each pair

If an evaluation of f costs 1 and one with its gradient 2.2, that is K + 2.2 A against 2.2 K per image and term: a
margin loss is cheaper in two passes, cross-entropy in one. The forward pass cannot know the loss: `Target.step` is told
by the attack and hands it on (`Narrowing.every_class`).

The gradients G[n, k] = dL[n, k]/dx_n can be differentiated in their turn. With dloss/dG = v it takes Hessians times
vectors, by differentiating the gradient of each chunk once more (double backward), again in the memory of one chunk:

    dloss/dx_n = sum_k sum_j d2f/dx2(x_n; n, k, j) v[n, k]

The graphs of the gradients of as many chunks as memory is allowed for are kept until then; those of the others are made
again. Nothing of the kind serves L itself: the forward pass does not know which pairs will be asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from defenses.diffusion.graph_memory import Keeper
from defenses.diffusion.once import refuse_second_derivative
from harness.process import waits
from harness.process.pull_back import pull_back

Passes = Literal["auto", "two", "single"]

GRADIENT_COST = 2.2
"""Evaluations that one with its gradient costs, see benchmarks/RESULTS.md."""

SINGLE_PASS_CLASSES = 3
"""Largest K at which a single pass costs no more than two even for a margin loss: 2.2 K <= K + 2.2 * 2."""


class Terms(Protocol):
    """f, summed over the terms it is given. Differentiable in x; a pair's value depends on that pair's image only."""

    def __call__(self, x: Tensor, images: Tensor, classes: Tensor, terms: Tensor) -> Tensor:
        """Partial sums of P pairs.

        Args:
            x: each pair's image, (P, C, H, W).
            images, classes: n and k of each pair, (P,) int64.
            terms: which j to sum over, (J',) int64.

        Returns:
            (P,).
        """


@dataclass(frozen=True)
class ChunkedSum:
    """L, or its gradients, as functions of x that can be differentiated once; `create_graph=True` raises RuntimeError.

    Args:
        terms: f.
        num_classes, num_terms: K and J.
        chunk: pairs x terms evaluated at once, at most.
        passes: see above; "auto" takes a single pass up to `SINGLE_PASS_CLASSES` classes.
    """

    terms: Terms
    num_classes: int
    num_terms: int
    chunk: int
    passes: Passes = "auto"

    def __call__(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> L (N, K)."""
        few = self.num_classes <= SINGLE_PASS_CLASSES
        single = self.passes == "single" or (self.passes == "auto" and few)
        differentiable = x.requires_grad and torch.is_grad_enabled()
        sums: Tensor = _Function.apply(x, self, single and differentiable)
        return sums

    def gradients(self, x: Tensor, *, allowed: float = 0) -> Tensor:
        """Images (N, C, H, W) -> dL[n, k]/dx_n (N, K, C, H, W), whether or not gradients are enabled.

        allowed: bytes of graphs that may be kept for their derivative.
        """
        found: Tensor = _Gradients.apply(x, self, Keeper(allowed))
        return found

    def values(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """L, (N, K), without a graph; or a part of it, the sum over the terms `only` (J',)."""
        pairs = self._all_pairs(x)
        sums = x.new_zeros(len(pairs))
        with torch.no_grad():
            for some, terms in self._chunks(pairs, only):
                images, classes = pairs[some].unbind(1)
                sums[some] += self.terms(x[images], images, classes, terms)
        return sums.view(len(x), self.num_classes)

    def values_and_gradients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """L, (N, K), and dL[n, k]/dx_n, (N, K, C, H, W), without a graph."""
        pairs = self._all_pairs(x)
        sums, gradients = x.new_zeros(len(pairs)), x.new_zeros(len(pairs), *x.shape[1:])
        for some, terms in self._chunks(pairs):
            values, gradient = self._differentiate(x, pairs[some], terms, torch.ones_like(sums[some]))
            sums[some] += values
            gradients[some] += gradient
        shape = len(x), self.num_classes
        return sums.view(shape), gradients.view(*shape, *x.shape[1:])

    def gradients_and_graphs(self, x: Tensor, keeper: Keeper) -> tuple[Tensor, list[_Kept]]:
        """dL[n, k]/dx_n, (N, K, C, H, W), without a graph, and the graphs of the first chunks' gradients."""
        pairs, kept = self._all_pairs(x), []
        gradients = x.new_zeros(len(pairs), *x.shape[1:])
        for some, terms in self._chunks(pairs):
            if keeper.has_room:
                with keeper.building():
                    own, gradient = self._differentiable(x, pairs[some], terms)
                if not keeper.overdrawn:
                    kept.append(_Kept(own, gradient))
            else:
                _, gradient = self._differentiate(x, pairs[some], terms, x.new_ones(len(pairs[some])))
            gradients[some] += gradient.detach()
        return gradients.view(len(x), self.num_classes, *x.shape[1:]), kept

    def pull_back(self, x: Tensor, weights: Tensor) -> Tensor:
        """sum_k weights[n, k] dL[n, k]/dx_n, (N, C, H, W); of several classes only the pairs with a weight."""
        pairs = self._all_pairs(x) if self.num_classes == 1 else waits.places(weights)
        gradients = torch.zeros_like(x)
        for some, terms in self._chunks(pairs):
            _, gradient = self._differentiate(x, pairs[some], terms, weights[pairs[some].unbind(1)])
            gradients.index_add_(0, pairs[some, 0], gradient)
        return gradients

    def curvature(self, x: Tensor, directions: Tensor, kept: Sequence[_Kept] = ()) -> Tensor:
        """sum_k d2L[n, k]/dx_n^2 directions[n, k], (N, C, H, W); pairs whose direction is zero are not evaluated.

        Args:
            x: images, (N, C, H, W).
            directions: a vector for each pair, (N, K, C, H, W).
            kept: graphs of the first chunks of all pairs, which need not be made again.
        """
        products = torch.zeros_like(x)
        if kept:
            return self._from_graphs(x, directions, kept)
        pairs = self._all_pairs(x) if self.num_classes == 1 else waits.places(directions.flatten(2).any(2))
        for some, terms in self._chunks(pairs):
            product = self._differentiate_twice(x, pairs[some], terms, directions[pairs[some].unbind(1)])
            products.index_add_(0, pairs[some, 0], product)
        return products

    def _all_pairs(self, x: Tensor) -> Tensor:
        places = torch.arange(len(x) * self.num_classes, device=x.device)
        return torch.stack([places // self.num_classes, places % self.num_classes], dim=1)

    def _chunks(self, pairs: Tensor, only: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of pairs x terms, at most `chunk` evaluations each. pairs: (n, k), (P, 2) int64."""
        every = torch.arange(self.num_terms, device=pairs.device) if only is None else only
        size = max(1, self.chunk // len(every))
        parts = every.chunk(math.ceil(len(every) / self.chunk))
        for start in range(0, len(pairs), size):
            for terms in parts:
                yield slice(start, start + size), terms

    def _differentiate(self, x: Tensor, pairs: Tensor, terms: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Partial sums (P,), and their gradients times `weights`, (P, C, H, W)."""
        images, classes = pairs.unbind(1)
        with torch.enable_grad():
            own = x.detach()[images].requires_grad_()
            values = self.terms(own, images, classes, terms)
            (gradient,) = pull_back([values], [own], [weights])
        return values.detach(), gradient

    def _differentiate_twice(self, x: Tensor, pairs: Tensor, terms: Tensor, directions: Tensor) -> Tensor:
        """Hessians of the partial sums times `directions`, both (P, C, H, W)."""
        own, gradient = self._differentiable(x, pairs, terms)
        (product,) = pull_back([gradient], [own], [directions])
        return product

    def _differentiable(self, x: Tensor, pairs: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs' images, and the gradients of the partial sums in them with a graph, both (P, C, H, W)."""
        images, classes = pairs.unbind(1)
        with torch.enable_grad():
            own = x.detach()[images].requires_grad_()
            values = self.terms(own, images, classes, terms)
            (gradient,) = torch.autograd.grad(values.sum(), own, create_graph=True)
        return own, gradient

    def _from_graphs(self, x: Tensor, directions: Tensor, kept: Sequence[_Kept]) -> Tensor:
        """`curvature` of all pairs in the chunks of the forward pass, (N, C, H, W)."""
        pairs, products = self._all_pairs(x), torch.zeros_like(x)
        for place, (some, terms) in enumerate(self._chunks(pairs)):
            wanted = directions[pairs[some].unbind(1)]
            if place < len(kept):
                (product,) = pull_back([kept[place].gradient], [kept[place].own], [wanted])
            else:
                product = self._differentiate_twice(x, pairs[some], terms, wanted)
            products.index_add_(0, pairs[some, 0], product)
        return products


class _Kept(NamedTuple):
    """A chunk's gradient with its graph: own and gradient are (P, C, H, W)."""

    own: Tensor
    gradient: Tensor


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, total: ChunkedSum, single: bool) -> Tensor:
        ctx.total, ctx.single = total, single
        if not single:
            ctx.save_for_backward(x)
            return total.values(x)
        sums, gradients = total.values_and_gradients(x)
        ctx.save_for_backward(gradients)
        return sums

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("a chunked sum, or its gradients,")
        (saved,) = ctx.saved_tensors
        if ctx.single:
            return torch.einsum("nk,nk...->n...", weights, saved), None, None
        return ctx.total.pull_back(saved, weights), None, None


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, total: ChunkedSum, keeper: Keeper) -> Tensor:
        gradients, ctx.kept = total.gradients_and_graphs(x, keeper)
        ctx.total = total
        ctx.save_for_backward(x)
        return gradients

    @staticmethod
    def backward(ctx: Any, directions: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("a chunked sum, or its gradients,")
        (x,) = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, []  # graphs serve once; whoever asks again has them made again
        return ctx.total.curvature(x, directions, kept), None, None
