"""LPIPS: how differently a network sees two images (Zhang et al., 2018), as a budget (Laidlaw et al., 2021).

    d(x, x') = || phi(x) - phi(x') ||_2,    phi(x) = ( a_l(x) / sqrt(h_l w_l) )_l,    d(x, x') <= eps, x' in [0, 1]

a_l are the activations of layer l, h_l x w_l pixels, scaled to unit length across the channels of each pixel. L layers
of activations that are not negative are at most sqrt(2 L) apart. There are no learned weights of channels, as in
Laidlaw et al., 2021 (arXiv:2006.12655, Sec. 3).

The distance belongs to the network: a budget names both, as in `LPIPS(digits-pat) 0.5`. It is measured in double
precision, so that it does not depend on the batch or the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.quantity import Quantity
from harness.threat import L2, Pixels

HALVINGS = 12
"""Halvings of the segment from the clean image, whose end within the budget a projection looks for."""

START = 0.01
"""Standard deviation of the noise of a random start: at the clean image itself the distance has no gradient."""

BATCH = 64
"""Images seen at once."""

_UNIT = L2(Quantity(1))


class Perceiving(Protocol):
    """A network that shows its activations."""

    def activations(self, x: Tensor) -> list[Tensor]:
        """Those that are compared, (N, C_l, H_l, W_l) each."""


@dataclass(frozen=True)
class Perception:
    """A network that images are seen through. It is loaded when it is first needed.

    Args:
        name: of its checkpoint, for reports.
        load: makes the network, a module in evaluation mode whose `activations` take images in [0, 1].
    """

    name: str
    load: Callable[[], nn.Module] = field(compare=False, repr=False)
    loaded: dict[tuple[torch.device, torch.dtype], nn.Module] = field(default_factory=dict, compare=False, repr=False)

    def network(self, x: Tensor) -> Perceiving:
        """The network, on the device and in the precision of images x."""
        where = (x.device, x.dtype)
        if where not in self.loaded:
            self.loaded[where] = self.load().to(*where)
        return cast(Perceiving, self.loaded[where])

    def features(self, x: Tensor) -> Tensor:
        """phi(x), (N, D), of images (N, C, H, W) in [0, 1], in their precision and on their device."""
        return unit_features(self.network(x).activations(x))


@dataclass(frozen=True)
class LPIPS(Pixels):
    """The image looks to a network as if it had changed by at most eps.

    Args:
        eps: the distance d of the module's head.
        perception: the network.

    Example:
        >>> class Edges(nn.Module):
        ...     def activations(self, x):
        ...         return [torch.cat([x, x.roll(1, 3)], dim=1)]
        >>> threat = LPIPS(Quantity("0.5"), Perception("edges", Edges))
        >>> x = torch.rand(1, 1, 4, 4)
        >>> x_adv = threat.project(x, 1 - x)
        >>> str(threat), threat.violation(x, x_adv).item()
        ('LPIPS(edges) 0.5', 0.0)
    """

    perception: Perception
    name: ClassVar[str] = "LPIPS"

    def __str__(self) -> str:
        return f"{self.name}({self.perception.name}) {self.eps}"

    @torch.no_grad()
    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        pairs = zip(x.double().split(BATCH), x_adv.double().split(BATCH), strict=True)
        features = self.perception.features
        return torch.cat([(features(b) - features(a)).norm(dim=1) for a, b in pairs]).to(x.dtype)

    @torch.no_grad()
    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The farthest point of the segment from x to x_adv that bisection finds within the budget, (N, C, H, W).

        Unlike in a norm, no point of the budget is known to be the nearest. The distance need not grow along the
        segment; that of the point which is returned was measured.
        """
        pairs = zip(x.split(BATCH), x_adv.clamp(0, 1).split(BATCH), strict=True)
        return torch.cat([self._within(a, b) for a, b in pairs])

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """The unit step in L2, on which the distance does not depend: see `attacks.ppgd` for the one in d."""
        return _UNIT.steepest(grad, x)

    def random(self, x: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """The image under faint noise, within the budget."""
        return self.project(x, x + START * normal)

    def _within(self, x: Tensor, x_adv: Tensor) -> Tensor:
        here = self.perception.features(x.double())

        def along(share: Tensor) -> Tensor:
            return (x + share[:, None, None, None] * (x_adv - x)).clamp(0, 1)

        def allowed(image: Tensor) -> Tensor:
            return (self.perception.features(image.double()) - here).norm(dim=1) <= float(self.eps)

        whole = torch.ones(len(x)).to(x)
        inside = allowed(x_adv)
        low, high = torch.zeros_like(whole), whole
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = allowed(along(middle))
            low, high = middle.where(fits, low), high.where(fits, middle)
        return torch.where(inside[:, None, None, None], x_adv, along(low))


def unit_features(activations: list[Tensor]) -> Tensor:
    """phi of the module's head, (N, D), from activations of (N, C_l, H_l, W_l) each."""
    layers = [F.normalize(a, dim=1) / (a.shape[2] * a.shape[3]) ** 0.5 for a in activations]
    return torch.cat([layer.flatten(1) for layer in layers], dim=1)
