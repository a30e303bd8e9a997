"""JPEG compression (Guo et al., 2018; Dziugaite et al., 2016).

It uses a real encoder and decoder of 8-bit pixels. These round, and have no gradient: the purified images are detached,
and `gradient: exact` ends in an error instead of a number. The defense is broken by BPDA (Athalye et al., 2018, Sec.
5.2.2), since compression hardly moves an image and is close to the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.canaries.front import Front
from harness.errors import UserError
from harness.suite.nested import InnerDefense


class JPEG(Front):
    """A classifier that sees images of 1 or 3 channels after JPEG compression.

    Args:
        classifier: the defense behind it.
        quality: the encoder's quality, 1 (coarse) to 100; 75 in the paper.

    Raises:
        UserError: the quality is out of range.
    """

    def __init__(self, classifier: InnerDefense, quality: int = 75) -> None:
        super().__init__(classifier)
        if not 1 <= quality <= 100:
            raise UserError(f"quality is {quality}", remedy="It must lie between 1 and 100")
        self.quality = quality

    def purify(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1], C = 1 or 3 -> the same, as multiples of 1/255 and without a gradient."""
        from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

        mode = ImageReadMode.GRAY if x.shape[1] == 1 else ImageReadMode.RGB
        pixels = (255 * x.detach().clamp(0, 1)).round().to(torch.uint8).cpu()
        images = [decode_jpeg(encode_jpeg(image, self.quality), mode) for image in pixels]
        return torch.stack(images).to(x) / 255
