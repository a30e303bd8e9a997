"""Hue and saturation: one turn, or one factor, for all colours of the image (Hosseini & Poovendran, 2018).

V = max rgb,  C = V - min rgb,  H in [0, 6), the place on the hexagon of hues
Hue:         H' = H + 6 z,                  |z| <= eps turns
Saturation:  C' = min(V, C max(0, 1 + z)),  |z| <= eps

rgb_n = V - C max(0, min(k, 4 - k, 1)),    k = (n + H) mod 6,    n = 5, 3, 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.threats.parametric import Parametric

SECTORS = 6


@dataclass(frozen=True)
class Hue(Parametric):
    """All hues turned by one angle; brightness and saturation stay.

    Args:
        eps: the largest angle in whole turns; 0.5 is any.

    Source:
        Hosseini & Poovendran, 2018 (arXiv:1804.00499), who allow any hue; bounds: Hsiung et al., 2023
        (arXiv:2202.04235).

    Example:
        >>> red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
        >>> from harness.quantity import Quantity
        >>> green = Hue(Quantity("1/2")).render(red, torch.tensor([[1 / 3]]))
        >>> [round(value, 3) for value in green.flatten().tolist()]
        [0.0, 1.0, 0.0]
    """

    name: ClassVar[str] = "Hue"
    source: ClassVar[str] = "arXiv:1804.00499"
    channels: ClassVar[tuple[int, ...]] = (3,)

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(1,): the angle in turns."""
        return (1,)

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        hue, chroma, value = to_hue(x.double())
        return from_hue(hue + SECTORS * z.double().view(-1, 1, 1), chroma, value).to(x.dtype)


@dataclass(frozen=True)
class Saturation(Parametric):
    """All saturations multiplied by one factor; hue and brightness stay.

    Args:
        eps: by how much the factor may differ from 1.

    Source:
        Hosseini & Poovendran, 2018 (arXiv:1804.00499), who add to it; factors: Hsiung et al., 2023 (arXiv:2202.04235).

    Example:
        >>> pink = torch.tensor([1.0, 0.5, 0.5]).view(1, 3, 1, 1)
        >>> from harness.quantity import Quantity
        >>> Saturation(Quantity("1/2")).render(pink, torch.tensor([[0.5]])).flatten().tolist()
        [1.0, 0.25, 0.25]
    """

    name: ClassVar[str] = "Saturation"
    source: ClassVar[str] = "arXiv:1804.00499"
    channels: ClassVar[tuple[int, ...]] = (3,)

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(1,): the factor less 1."""
        return (1,)

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        hue, chroma, value = to_hue(x.double())
        factor = (1 + z.double().view(-1, 1, 1)).clamp(min=0)
        return from_hue(hue, torch.minimum(value, chroma * factor), value).to(x.dtype)


def to_hue(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H in [0, 6), C and V of images (N, 3, H, W) in [0, 1], each (N, H, W). Of grey pixels, H is 0."""
    value, largest = rgb.max(1)
    chroma = value - rgb.amin(1)
    red, green, blue = rgb.unbind(1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sectors = torch.stack([(green - blue) / divisor, (blue - red) / divisor + 2, (red - green) / divisor + 4])
    return sectors.gather(0, largest[None])[0] % SECTORS, chroma, value


def from_hue(hue: Tensor, chroma: Tensor, value: Tensor) -> Tensor:
    """The inverse of `to_hue`: images (N, 3, H, W), clipped to [0, 1]."""
    places = [(n + hue) % SECTORS for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], 1).clamp(0, 1)
