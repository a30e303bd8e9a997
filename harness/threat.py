"""Threat models: what an attacker may do to an image, how much of the budget an image uses, and projection onto it.

Linf(eps):   max |x' - x| <= eps      L2(eps):   ||x' - x||_2 <= eps      L1(eps):   sum |x' - x| <= eps
L0(eps):     the number of values with x' != x is at most eps; a pixel of a colour image has three
             all with x' in [0, 1]
Flow(bound): x' = warp(x, f), |f| <= bound per component, f in units of half the image width (StAdv)

Threat models whose images are drawn from other parameters than a flow are in `harness.threats`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.quantity import TOLERANCE as TOLERANCE
from harness.quantity import Quantity

SPREAD = 0.05
"""The share of an image's values that a step in L1 changes."""

FARTHEST, BISECTIONS = 1e3, 70
"""For the projection onto an L1 ball: changes are clipped to FARTHEST first, which does not affect the result; and so
many bisection steps determine the threshold to the last bit."""

WARP_TOLERANCE = 1e-5
"""The largest difference between a stored image and the warp of its flow that float rounding can explain."""


@dataclass(frozen=True)
class ThreatModel(ABC):
    """A budget around each image.

    Args:
        eps: the radius, in the norm's own units on the [0, 1] scale.
    """

    eps: Quantity
    name: ClassVar[str]
    evidence: ClassVar[str] = "parameters"
    """The name under which the parameters of images are stored."""

    @abstractmethod
    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Budget used by each image, (N,), in the units of `eps`.

        Args:
            x, x_adv: the clean and the adversarial images, (N, C, H, W).
            parameters: (N, ...), what the images were made from, where the threat model is about that: a flow, say.
        """

    def violation(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        """By how much each image exceeds its budget or [0, 1], (N,): 0 if it does not, inf if it is not finite."""
        outside = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1)
        excess = torch.maximum(self.size(x, x_adv, parameters) - float(self.eps), outside).clamp(min=0)
        return torch.where(torch.isfinite(x_adv).flatten(1).all(1), excess, torch.inf)

    def __str__(self) -> str:
        return f"{self.name} {self.eps}"


class Pixels(ThreatModel):
    """A norm ball in pixel space, intersected with [0, 1]."""

    @abstractmethod
    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The image nearest to x_adv (in this norm's geometry) within the budget of x. Both (N, C, H, W)."""

    @abstractmethod
    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """The unit step that raises a linear loss fastest: (N, C, H, W), of size 1 in this norm.

        x: the image that the step starts from; L1 then skips pixels that are already at 0 or 1.
        """

    @abstractmethod
    def random(self, x: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """A random image in the ball, made from noise of x's shape (uniform in [0, 1), and standard normal)."""


@dataclass(frozen=True)
class Linf(Pixels):
    """No pixel changes by more than eps: max |x' - x| <= eps.

    Args:
        eps: on the [0, 1] scale, such as 8/255.

    Example:
        >>> x = torch.tensor([0.5, 0.0]).view(1, 1, 1, 2)
        >>> Linf(Quantity("1/4")).project(x, x - 0.5).flatten().tolist()
        [0.25, 0.0]
    """

    name: ClassVar[str] = "Linf"

    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        return (x_adv - x).abs().flatten(1).amax(1)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        eps = float(self.eps)
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        return grad.sign()

    def random(self, x: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        return self.project(x, x + float(self.eps) * (2 * uniform - 1))


@dataclass(frozen=True)
class L2(Pixels):
    """The Euclidean distance of the whole image is at most eps: ||x' - x||_2 <= eps.

    Args:
        eps: on the [0, 1] scale, such as 0.5.

    Example:
        >>> x = torch.zeros(1, 1, 1, 2)
        >>> L2(Quantity(0.5)).project(x, torch.tensor([0.6, 0.8]).view(1, 1, 1, 2)).flatten().tolist()
        [0.30000001192092896, 0.4000000059604645]
    """

    name: ClassVar[str] = "L2"

    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        return torch.linalg.vector_norm((x_adv - x).flatten(1).double(), dim=1).to(x.dtype)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Clips to [0, 1] first, then shrinks towards x: [0, 1] is convex and contains x, so the result stays in it."""
        return self.shrink(x, x_adv.clamp(0, 1))

    def shrink(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest point of the ball around x. It may lie outside [0, 1]. Both (N, C, H, W)."""
        delta = x_adv.double() - x  # double: at large radii a float norm is off by more than TOLERANCE
        norm = _column(torch.linalg.vector_norm(delta.flatten(1), dim=1), x)
        return (x + delta * (float(self.eps) / norm.clamp(min=1e-30)).clamp(max=1)).to(x.dtype)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        largest = _column(grad.abs().flatten(1).amax(1), grad).clamp(min=torch.finfo(grad.dtype).tiny)
        scaled = grad / largest  # squares of very small gradients would underflow
        return scaled / _column(torch.linalg.vector_norm(scaled.flatten(1), dim=1), grad).clamp(min=1e-12)

    def random(self, x: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        dimension = x[0].numel()
        radius = _column(uniform.flatten(1)[:, 0] ** (1 / dimension), x)
        return self.project(x, x + float(self.eps) * radius * self.steepest(normal))


@dataclass(frozen=True)
class L1(Pixels):
    """The changes of all pixels sum up to at most eps: sum |x' - x| <= eps.

    Its steepest step is spread evenly over the `SPREAD` largest entries.

    Args:
        eps: on the [0, 1] scale, such as 12.

    Source:
        The step: SLIDE, Tramèr & Boneh, 2019 (arXiv:1904.13000). The projection: Croce & Hein, 2021 (arXiv:2103.01208).

    Example:
        >>> x = torch.zeros(1, 1, 1, 2)
        >>> found = L1(Quantity(0.5)).project(x, torch.tensor([0.75, 0.25]).view(1, 1, 1, 2))
        >>> [round(value, 4) for value in found.flatten().tolist()]
        [0.5, 0.0]
    """

    name: ClassVar[str] = "L1"

    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        return (x_adv.double() - x).abs().flatten(1).sum(1).to(x.dtype)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest point of the intersection of ball and box (Croce & Hein, 2021).

        It is x + soft(x_adv - x, lambda), clipped to [0, 1]. Its distance from x falls as lambda grows: bisection ends
        on the feasible side, with a margin for the rounding of every pixel.
        """
        clipped, start = x_adv.clamp(0, 1), x.double()
        delta = (x_adv.double() - start).clamp(-FARTHEST, FARTHEST)
        reach = max(float(self.eps) - x[0].numel() * torch.finfo(x.dtype).eps / 4, 0.0)
        low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        high = delta.abs().flatten(1).amax(1)

        def shrunk(threshold: Tensor) -> Tensor:
            return (start + delta.sign() * (delta.abs() - _column(threshold, x)).clamp(min=0)).clamp(0, 1)

        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fits = (shrunk(middle) - start).abs().flatten(1).sum(1) <= reach
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        inside = self.size(x, clipped) <= float(self.eps)
        return torch.where(_column(inside, x), clipped, shrunk(high).to(x.dtype))

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        if x is not None:
            stopped = ((x <= 0) & (grad < 0)) | ((x >= 1) & (grad > 0))
            grad = grad.masked_fill(stopped, 0)
        size = grad.abs().flatten(1)
        count = max(1, round(SPREAD * size.shape[1]))
        least = _column(size.topk(count, dim=1).values[:, -1], grad)
        chosen = grad.sign() * (grad.abs() >= least)
        return chosen / _column(chosen.abs().flatten(1).sum(1), grad).clamp(min=1)

    def random(self, x: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """Uniform in the ball: exponential variables divided by the sum of them and one more, with random signs."""
        sizes = -(1 - uniform.double()).log()
        spare = -torch.special.erfc(normal.double().flatten(1)[:, 0].abs() / math.sqrt(2)).log()
        total = _column(sizes.flatten(1).sum(1) + spare, x)
        return self.project(x, (x + float(self.eps) * normal.sign() * sizes / total).to(x.dtype))


@dataclass(frozen=True)
class L0(ThreatModel):
    """At most eps values of the image change, by any amount: |{i: x'_i != x_i}| <= eps.

    Values are counted, as in the other norms, and not positions: a pixel of a colour image that changes in all of its
    channels counts three times. No tolerance is allowed for: a value that differs in its last bit has changed.

    Args:
        eps: how many values, a whole number such as 10.

    Source:
        sigma-zero, Cinà et al., 2025 (arXiv:2402.01879), Sec. 2. Sparse-RS (arXiv:2006.12834) counts positions.

    Example:
        >>> x = torch.zeros(1, 1, 1, 3)
        >>> found = L0(Quantity(2)).project(x, torch.tensor([0.5, 0.25, 3.0]).view(1, 1, 1, 3))
        >>> found.flatten().tolist(), L0(Quantity(2)).size(x, found).item()
        ([0.5, 0.0, 1.0], 2.0)
    """

    name: ClassVar[str] = "L0"

    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        return (x_adv != x).flatten(1).sum(1).to(x.dtype)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The image nearest to x_adv (in L2) within the budget: it keeps the largest changes. Both (N, C, H, W)."""
        clipped = x_adv.clamp(0, 1)
        change = (clipped - x).abs().flatten(1)
        largest = change.topk(min(int(self.eps), change.shape[1]), dim=1).indices
        kept = torch.zeros_like(change, dtype=torch.bool).scatter(1, largest, True).view_as(x)
        return clipped.where(kept, x)


@dataclass(frozen=True)
class Flow(ThreatModel):
    """Bounded spatial flow: every pixel is sampled from a nearby position.

    Args:
        eps: bounds each component of the flow; 2.0 is the image's full width.

    Source:
        StAdv, Xiao et al., 2018 (arXiv:1801.02612).

    Example:
        >>> x = torch.rand(1, 3, 8, 8)
        >>> flow = torch.full((1, 8, 8, 2), 0.05)
        >>> Flow(Quantity(0.05)).size(x, warp(x, flow), flow).item() <= 0.05 + 1e-6
        True
    """

    name: ClassVar[str] = "Flow"
    evidence: ClassVar[str] = "flow"

    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        """The largest flow component; inf for an image that is not the warp of its flow, (N, H, W, 2)."""
        flow = parameters
        if flow is None:
            moved = (x_adv != x).flatten(1).any(1)
            return torch.where(moved, torch.inf, 0.0)
        consistent = (warp(x, flow) - x_adv).abs().flatten(1).amax(1) <= WARP_TOLERANCE
        return torch.where(consistent, flow.abs().flatten(1).amax(1), torch.inf)

    def project(self, flow: Tensor) -> Tensor:
        """Limits each component to the bound, and sampling positions to the image's outermost pixel edges."""
        grid = identity_grid(flow)
        return ((grid + flow).clamp(-1, 1) - grid).clamp(-float(self.eps), float(self.eps)).to(flow.dtype)


NORMS: dict[str, type[Pixels]] = {"Linf": Linf, "L2": L2, "L1": L1}
"""The balls that a gradient step can be taken in: L0 is none of them."""


def identity_grid(flow: Tensor) -> Tensor:
    """Pixel centres in grid_sample's units, (1, H, W, 2) for a flow (N, H, W, 2), last axis (x, y); float64."""
    rows, columns = ((2 * torch.arange(n, device=flow.device).double() + 1) / n - 1 for n in flow.shape[1:3])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Samples x (N, C, H, W) bilinearly at pixel centres moved by flow (N, H, W, 2); pixels outside the image are 0.

    It computes in double precision: single precision has errors of 3e-5 on a black and white image of 224 pixels, and
    differs between devices.
    """
    grid = identity_grid(flow) + flow
    moved = F.grid_sample(x.double(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.to(x.dtype)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


LARGEST: dict[type[ThreatModel], float] = {Linf: 1, L2: 100, Flow: 2}
"""Larger budgets must have been meant in other units: images lie in [0, 1], and a flow of 2 is the whole width."""
