"""Threat models whose adversarial image is drawn from the clean one and a few parameters.

    x' = render(x, z),    z in a set that grows with eps, and contains 0;    render(x, 0) = x

The parameters z are stored beside the image. Whoever checks it renders it again: an image that differs from
render(x, z) by more than rounding is a violation, and so are parameters outside the set. An image that is the clean one
uses nothing of the budget, whatever its parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.randomness import fold
from harness.threat import ThreatModel

RENDER_TOLERANCE = 1e-5
"""The largest difference between a stored image and the one rendered anew that float rounding can explain."""

LEVELS = 255
"""Steps of a pixel, of which `image_seeds` tells images apart."""


@dataclass(frozen=True)
class Parametric(ThreatModel):
    """A threat model whose images are drawn from parameters z.

    A subclass writes `shape` and `render`; and `project` and `used`, unless the set is the box [-eps, eps] or, where it
    says `signed = False`, [0, eps].

    Args:
        eps: the bound on the parameters, in units that the subclass says.
    """

    signed: ClassVar[bool] = True
    """Whether parameters may be negative."""
    channels: ClassVar[tuple[int, ...]] = (1, 3)
    """The numbers of channels of images that it can be applied to."""
    source: ClassVar[str] = ""
    """The paper that it comes from."""

    @abstractmethod
    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the parameters of an image of shape (C, H, W)."""

    @abstractmethod
    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Draws the adversarial images, (N, C, H, W) in [0, 1]; differentiable in z.

        Args:
            x: clean images, (N, C, H, W) in [0, 1].
            z: parameters, (N, *shape).
        """

    def project(self, z: Tensor) -> Tensor:
        """The nearest parameters of the set, (N, *shape)."""
        return z.clamp(-float(self.eps) if self.signed else 0.0, float(self.eps))

    def used(self, z: Tensor) -> Tensor:
        """The least eps whose set contains the parameters, (N,); inf if none does. z: (N, *shape), finite."""
        largest = z.abs().flatten(1).amax(1)
        return largest if self.signed else torch.where((z < 0).flatten(1).any(1), torch.inf, largest)

    def random(self, uniform: Tensor) -> Tensor:
        """Random parameters of the set, made from noise of their shape that is uniform in [0, 1)."""
        return self.project(float(self.eps) * (2 * uniform - 1 if self.signed else uniform))

    def size(self, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
        """`used`, (N,); inf for an image that is not the one its parameters make, and 0 for the clean image."""
        same = (x_adv == x).flatten(1).all(1)
        if parameters is None or parameters.shape != (len(x), *self.shape(tuple(x.shape[1:]))):
            return torch.where(same, 0.0, torch.inf)
        finite = torch.isfinite(parameters).flatten(1).all(1)
        z = parameters.nan_to_num(0, 0, 0)
        with torch.no_grad():
            far = (self.render(x, z) - x_adv).abs().flatten(1).amax(1)
        used = torch.where(finite & (far <= RENDER_TOLERANCE), self.used(z), torch.inf)
        return torch.where(same, 0.0, used)

    def unsuitable(self, image: tuple[int, ...]) -> str | None:
        """Why images of shape (C, H, W) cannot be drawn, or None."""
        if image[0] in self.channels:
            return None
        needed = " or ".join(map(str, self.channels))
        return f"{self.name} changes colours: it needs images of {needed} channels, not {image[0]}"


def image_seeds(x: Tensor) -> Tensor:
    """A seed of each image that follows from its pixels alone, (N,) int64. x: (N, C, H, W) in [0, 1].

    What a threat model draws at random for an image, such as where snow falls, follows from it: so the image and its
    parameters are all that it takes to render the adversarial image again.
    """
    levels = (x.detach().double() * LEVELS).round().long().flatten(1)
    places = torch.arange(levels.shape[1], device=x.device)
    return fold((levels * (fold(places, 1) | 1)).sum(1), 2)
