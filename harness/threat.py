"""Threat models: what an attacker may do to an image, how far an image went, and the way back.

Linf(eps):   max |x' - x| <= eps      L2(eps):   ||x' - x||_2 <= eps      L1(eps):   sum |x' - x| <= eps
             all with x' in [0, 1]
Flow(bound): x' = warp(x, f), |f| <= bound per component, f in units of half the image width (StAdv)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.quantity import Quantity

TOLERANCE = 1e-6
"""Excess over the budget that float rounding explains; anything above is a violation."""

SPREAD = 0.05
"""Share of an image's values that a step in L1 moves."""

FARTHEST, BISECTIONS = 1e3, 70
"""Pixels beyond the first are as good as there; so many halvings find an L1 projection's threshold to the last bit."""

WARP_TOLERANCE = 1e-5
"""Largest difference between a stored image and its own flow's warp that float rounding explains."""


@dataclass(frozen=True)
class ThreatModel(ABC):
    """A budget around each image.

    Args:
        eps: the radius, in the norm's own units on the [0, 1] scale.
    """

    eps: Quantity
    name: ClassVar[str]

    @abstractmethod
    def size(self, x: Tensor, x_adv: Tensor, flow: Tensor | None = None) -> Tensor:
        """Budget used by each image, (N,), in the units of `eps`."""

    def violation(self, x: Tensor, x_adv: Tensor, flow: Tensor | None = None) -> Tensor:
        """How far each image exceeds its budget or [0, 1]: (N,), 0 where it does not, inf where it is not finite."""
        outside = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1)
        excess = torch.maximum(self.size(x, x_adv, flow) - float(self.eps), outside).clamp(min=0)
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

        x: where it starts; L1 then leaves out the pixels that 0 or 1 would stop.
        """

    @abstractmethod
    def random(self, x: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """A random image in the ball, from noise of x's shape (uniform in [0, 1), standard normal)."""


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

    def size(self, x: Tensor, x_adv: Tensor, flow: Tensor | None = None) -> Tensor:
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

    def size(self, x: Tensor, x_adv: Tensor, flow: Tensor | None = None) -> Tensor:
        return torch.linalg.vector_norm((x_adv - x).flatten(1).double(), dim=1).to(x.dtype)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Clips to [0, 1] first, then shrinks towards x: [0, 1] is convex and holds x, so the result stays in it."""
        return self.shrink(x, x_adv.clamp(0, 1))

    def shrink(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest point of the ball around x, which may lie outside [0, 1]. Both (N, C, H, W)."""
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

    def size(self, x: Tensor, x_adv: Tensor, flow: Tensor | None = None) -> Tensor:
        return (x_adv.double() - x).abs().flatten(1).sum(1).to(x.dtype)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest point of ball and box together (Croce & Hein, 2021): x + soft(x_adv - x, lambda), then clipped.

        Its size falls as lambda grows: bisection ends on the feasible side, with room for the rounding of every pixel.
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
        """Uniform in the ball: exponentials over the sum of one more of them, with random signs."""
        sizes = -(1 - uniform.double()).log()
        spare = -torch.special.erfc(normal.double().flatten(1)[:, 0].abs() / math.sqrt(2)).log()
        total = _column(sizes.flatten(1).sum(1) + spare, x)
        return self.project(x, (x + float(self.eps) * normal.sign() * sizes / total).to(x.dtype))


@dataclass(frozen=True)
class Flow(ThreatModel):
    """Bounded spatial flow: every pixel is sampled from a place nearby.

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

    def size(self, x: Tensor, x_adv: Tensor, flow: Tensor | None = None) -> Tensor:
        """Largest flow component; inf for an image that is not the warp of its flow. flow: (N, H, W, 2)."""
        if flow is None:
            moved = (x_adv != x).flatten(1).any(1)
            return torch.where(moved, torch.inf, 0.0)
        honest = (warp(x, flow) - x_adv).abs().flatten(1).amax(1) <= WARP_TOLERANCE
        return torch.where(honest, flow.abs().flatten(1).amax(1), torch.inf)

    def project(self, flow: Tensor) -> Tensor:
        """Sampling positions within the image's outermost pixel edges, each component within the bound."""
        grid = identity_grid(flow)
        return ((grid + flow).clamp(-1, 1) - grid).clamp(-float(self.eps), float(self.eps)).to(flow.dtype)


NORMS: dict[str, type[Pixels]] = {"Linf": Linf, "L2": L2, "L1": L1}


def identity_grid(flow: Tensor) -> Tensor:
    """Pixel centres in grid_sample's units, (1, H, W, 2) for a flow (N, H, W, 2), last axis (x, y); float64."""
    rows, columns = ((2 * torch.arange(n, device=flow.device).double() + 1) / n - 1 for n in flow.shape[1:3])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Samples x (N, C, H, W) bilinearly at pixel centres moved by flow (N, H, W, 2); outside the image is 0.

    In double precision: single is off by 3e-5 on a black and white image of 224 pixels, and differs between devices.
    """
    grid = identity_grid(flow) + flow
    moved = F.grid_sample(x.double(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.to(x.dtype)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


LARGEST: dict[type[ThreatModel], float] = {Linf: 1, L2: 100, Flow: 2}
"""Budgets beyond these were meant in other units: images lie in [0, 1], and a flow of 2 crosses the whole width."""
