"""Square (Andriushchenko et al., 2020) of the AutoAttack package, for images of any size that it can tile.

In L2 and L1 it starts from tiles of s x s pixels, s = height // 5, set side by side from (height - 5 s) // 2 on:
height // s of them down and width // s across. Where 5 does not divide the height, the last ones may leave the image
(on squares of 12, 14, 18, 19 and 24 pixels, say), at which the library fails. Here they are cut off at the edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyautoattack.square import SquareAttack
from torch import Tensor

from attacks.common.norms import Norm

TILES = 5
"""Tiles down an image; an image of fewer pixels in height has no tiles at all."""

TILED: tuple[Norm, ...] = ("L2", "L1")
"""Norms in which Square starts from tiles."""

LARGEST_SHARE = 0.8
"""The share of the pixels in the largest window that a step changes."""


class Square(SquareAttack):
    """The library's attack, whose results it reproduces wherever the tiles stay within the image."""

    def eta(self, s: int) -> Tensor:
        return super().eta(s).as_subclass(_Tile)


class _Tile(Tensor):
    """A tile, which keeps this class when it is given a sign and a batch.

    Where it is added to a part of an image, it is cut to that part's size.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        plain = [arg.as_subclass(Tensor) if isinstance(arg, _Tile) else arg for arg in args]
        if func is Tensor.add_:
            height, width = plain[0].shape[-2:]
            plain[1] = plain[1][..., :height, :width]
        result = func(*plain, **(kwargs or {}))
        return result.as_subclass(_Tile) if func in (Tensor.view, Tensor.mul) else result


def too_low(norm: Norm, height: int) -> str | None:
    """Why Square cannot attack images of this height, or None."""
    if norm in TILED and height < TILES:
        return f"square needs images at least {TILES} pixels high in {norm}, not {height}"
    return None


def overruns(height: int, width: int) -> bool:
    """Whether Square's tiles, or its largest window, are larger than the image, on which uncorrected copies of it fail.

    They fail too where the height is less than `TILES`, since there are no tiles then.
    """
    side = height // TILES
    if not side:
        return True
    start = (height - TILES * side) // 2
    longest = max(start + (length // side) * side - length for length in (height, width))
    uncut = longest > 0 and side > 1  # a tile of one pixel adds nothing beyond the edge, and fails nowhere
    window = max(round(math.sqrt(LARGEST_SHARE * height * width)), 3)
    return uncut or window + (window % 2 == 0) > min(height, width)
