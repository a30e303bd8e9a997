"""The corruptions of CIFAR-10-C that change single pixels, the colours, or the resolution.

gaussian_noise    x + c n                      n standard normal
shot_noise        Poisson(c x) / c
impulse_noise     0 or 1, in a share c of all values
speckle_noise     x + c x n
fog               (x + c f) m / (m + c)        f fractal, from 0 to 1; m = max x
brightness        V + c                        V = max rgb; hue and saturation stay
contrast          mean + c (x - mean)          mean of each channel
saturate          c_0 S + c_1                  S the saturation; hue and brightness stay
pixelate          to a share c of the side, and back, by boxes
jpeg_compression  at quality c, colour at half the resolution
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.randomness import fold, normal, uniform
from harness.threats.corruption import Corruption
from harness.threats.fog import heights, map_side
from harness.threats.hue import from_hue, to_hue
from harness.threats.jpeg import LEVELS, TIE, compressed


class GaussianNoise(Corruption):
    """Normal noise."""

    name: ClassVar[str] = "gaussian_noise"
    levels = (0.04, 0.06, 0.08, 0.09, 0.10)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        return x + level * normal(seeds, x.shape[1:], x.dtype)


class SpeckleNoise(Corruption):
    """Normal noise in proportion to the pixel."""

    name: ClassVar[str] = "speckle_noise"
    levels = (0.06, 0.1, 0.12, 0.16, 0.2)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        return x + level * x * normal(seeds, x.shape[1:], x.dtype)


class ShotNoise(Corruption):
    """Photons counted: Poisson noise, drawn by inverting its distribution function."""

    name: ClassVar[str] = "shot_noise"
    levels = (500, 250, 100, 75, 50)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        rate, drawn = level * x, uniform(seeds, x.shape[1:], x.dtype)
        count, mass = torch.zeros_like(x), torch.exp(-rate)
        below = mass.clone()
        for photons in range(1, level + math.ceil(8 * math.sqrt(level)) + 10):
            count += drawn >= below
            mass = mass * rate / photons
            below = below + mass
        return count / level


class ImpulseNoise(Corruption):
    """Salt and pepper: values of single channels set to 0 or to 1, as often one as the other."""

    name: ClassVar[str] = "impulse_noise"
    levels = (0.01, 0.02, 0.03, 0.05, 0.07)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        struck = uniform(fold(seeds, 0), x.shape[1:], x.dtype) < level
        salt = uniform(fold(seeds, 1), x.shape[1:], x.dtype) < 0.5
        return torch.where(struck, salt.to(x.dtype), x)


class FogCorruption(Corruption):
    """Fractal fog at random, stretched to reach 0 and 1."""

    name: ClassVar[str] = "fog"
    levels = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        thickness, decay = level
        drawn = 2 * uniform(seeds, (map_side(tuple(x.shape[1:])) ** 2 - 1,), x.dtype) - 1
        drift = heights(drawn, decay**2)  # the published code multiplies by the decaying width twice
        low, high = (getattr(drift.flatten(1), end)(1).view(-1, 1, 1) for end in ("amin", "amax"))
        fog = ((drift - low) / (high - low))[:, None, : x.shape[2], : x.shape[3]]
        brightest = x.flatten(1).amax(1).view(-1, 1, 1, 1)
        return (x + thickness * fog) * brightest / (brightest + thickness)


class Brightness(Corruption):
    """The brightness, the largest of a pixel's channels, raised."""

    name: ClassVar[str] = "brightness"
    levels = (0.05, 0.1, 0.15, 0.2, 0.3)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        value = x.amax(1, keepdim=True)
        raised = (value + level).clamp(max=1)
        return torch.where(value > 0, x * raised / torch.where(value > 0, value, 1.0), raised)


class Contrast(Corruption):
    """Each channel drawn together around its mean."""

    name: ClassVar[str] = "contrast"
    levels = (0.75, 0.5, 0.4, 0.3, 0.15)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return mean + level * (x - mean)


class Saturate(Corruption):
    """Colours made paler, or stronger."""

    name: ClassVar[str] = "saturate"
    levels = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))
    channels: ClassVar[tuple[int, ...]] = (3,)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        factor, shift = level
        hue, chroma, value = to_hue(x)
        saturation = chroma / torch.where(value > 0, value, 1.0)
        return from_hue(hue, value * (factor * saturation + shift).clamp(0, 1), value)


class Pixelate(Corruption):
    """Fewer pixels: the mean over boxes, and each of these as a box of pixels again, rounded to 8 bits each time."""

    name: ClassVar[str] = "pixelate"
    levels = (0.95, 0.9, 0.85, 0.75, 0.65)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        height, width = x.shape[2:]
        small = resized(eight_bits(x), max(1, int(height * level)), max(1, int(width * level)))
        return resized(small, height, width)


class JPEGCompression(Corruption):
    """Written as a JPEG file, and read again, with colour at half the resolution."""

    name: ClassVar[str] = "jpeg_compression"
    levels = (80, 65, 58, 50, 40)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        return eight_bits(compressed(eight_bits(x), level).clamp(0, 1))


def eight_bits(x: Tensor) -> Tensor:
    """Rounded to whole 255ths."""
    return (x * LEVELS + 0.5 + TIE).floor() / LEVELS


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Resized by boxes as Pillow does it, columns before rows, with 8 bits after each."""
    narrow = eight_bits(x @ _boxes(x.shape[3], width, x).T)
    return eight_bits(_boxes(x.shape[2], height, x) @ narrow)


def _boxes(length: int, wanted: int, like: Tensor) -> Tensor:
    """The weights of Pillow's box filter, (wanted, length): of the pixels whose centres lie in the box."""
    scale = length / wanted
    centres = (torch.arange(wanted, dtype=like.dtype, device=like.device)[:, None] + 0.5) * scale
    offsets = (torch.arange(length, dtype=like.dtype, device=like.device) + 0.5 - centres) / max(scale, 1.0)
    inside = ((offsets > -0.5) & (offsets <= 0.5)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
