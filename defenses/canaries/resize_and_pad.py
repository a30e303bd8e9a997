"""Random resizing, then random zero padding (Xie et al., 2018).

    s ~ U{smallest .. H},   a, b ~ U{0 .. H - s}        for each image and call, H x H pixels
    purify(x)_ij = x at (floor((i - a) H / s), floor((j - b) H / s)), the nearest neighbour, where that lies in x;
                   0 elsewhere

The paper scales up, from 299 pixels to at most 331; here images keep their size, so they are scaled down. Every draw is
differentiable, but one draw says little about the next. The defense is broken by the gradient's expectation over draws
(EOT; Athalye et al., 2018, Sec. 5.3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.canaries.front import Front
from harness.errors import UserError
from harness.randomness import derive, fold, uniform
from harness.suite.nested import InnerDefense

RESIZE = derive("resize and pad")
"""Makes its draws differ from all others from the same seeds."""


class ResizeAndPad(Front):
    """A classifier that sees square images at another size and place in every call. BPDA differentiates the draw.

    Args:
        classifier: the defense behind it.
        smallest: the smallest height and width that images are scaled to, in pixels.

    Raises:
        UserError: `smallest` is not positive, or, at the first call, the images are smaller or not square.
    """

    stochastic = True

    def __init__(self, classifier: InnerDefense, smallest: int) -> None:
        super().__init__(classifier)
        if smallest < 1:
            raise UserError(f"smallest is {smallest}", remedy="It must be a number of pixels, 1 or more")
        self.smallest = smallest

    def purify(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height != width or height < self.smallest:
            raise UserError(
                f"images of {height} x {width} pixels cannot be scaled down to {self.smallest}",
                remedy="Give square images, and a `smallest` of at most their size",
            )
        size, corner = self._draw(x)
        places = torch.arange(height, device=x.device) - corner[..., None]
        inside = (places >= 0) & (places < size[:, None, None])
        rows, columns = (places * height // size[:, None, None]).clamp(0, height - 1).unbind(1)
        down, across = inside.unbind(1)
        images = torch.arange(len(x), device=x.device)[:, None, None]
        resized = x[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return resized * (down[:, None, :, None] & across[:, None, None, :])

    def purify_surrogate(self, x: Tensor) -> Tensor:
        return self.purify(x)

    def _draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Size s, (N,) int64, and corner (a, b), (N, 2) int64."""
        length = x.shape[2]
        u = uniform(fold(self.seeds_for(x).to(x.device), RESIZE), (3,), torch.float64)
        size = self.smallest + (u[:, 0] * (length - self.smallest + 1)).long()
        return size, (u[:, 1:] * (length - size[:, None] + 1)).long()
