"""Resizing and cropping of image files as torchvision does it: the shorter side to `resize`, then the centre to `crop`.

    resize: 256              the shorter side becomes 256, the longer one int(256 * long / short)
    resize: [240, 320]       height 240 and width 320, whatever the shape was
    crop: 224                the centre, 224x224; its upper left corner is round((H - 224) / 2), round((W - 224) / 2)

Pixels are those of torchvision.transforms.Resize and CenterCrop on an image of Pillow, with antialiasing. Images with 8
bits are rounded to 8 bits after resizing, as there; images of more than 8 bits stay floating point, clipped to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image as Picture
from PIL.Image import Resampling

from harness.errors import UserError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Side = int | tuple[int, int]
"""The length of one side, or (height, width)."""

LARGEST = 2**24
"""The largest number of pixels of an image, 4096 x 4096. It protects the memory."""

FILTERS = {
    "nearest": Resampling.NEAREST,
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Transform:
    """What happens to each image after it was decoded.

    Args:
        resize: the new length of the shorter side, or (height, width); None to keep the size.
        crop: the side of the square, or (height, width), that is cut from the centre; None to keep everything.
        interpolation: how pixels are computed when an image is resized.

    Example:
        >>> from PIL import Image
        >>> Transform(resize=256, crop=224)(Image.new("RGB", (500, 375))).size
        (224, 224)
    """

    resize: Side | None = None
    crop: Side | None = None
    interpolation: Interpolation = "bilinear"

    def __call__(self, image: Picture) -> Picture:
        """Transforms an image of mode L, RGB or F.

        Raises:
            UserError: it is smaller than the crop, or would become too large; the message continues a sentence that
                starts with the file's name.
        """
        if self.resize is not None:
            image = image.resize(self._resized(*image.size), FILTERS[self.interpolation])
        return image if self.crop is None else self._cropped(image)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of all images, where it does not depend on the image."""
        if self.crop is not None:
            return _pair(self.crop)
        return self.resize if isinstance(self.resize, tuple) else None

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of an image after resizing."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        side, short = self.resize or 0, min(width, height)
        resized = int(side * width / short), int(side * height / short)
        if resized[0] * resized[1] > LARGEST:
            message = f"is {width}x{height}, and {resized[0]}x{resized[1]} when resized, more than {LARGEST:,} pixels"
            raise UserError(message, remedy="Remove it, or set `resize:` to [height, width]")
        return resized

    def _cropped(self, image: Picture) -> Picture:
        height, width = _pair(self.crop or 0)
        if image.width < width or image.height < height:
            raise UserError(
                f"is {image.width}x{image.height}, too small to crop {width}x{height} from it",
                remedy="Set `resize:` to at least the crop, or crop less",
            )
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def _pair(side: Side) -> tuple[int, int]:
    return side if isinstance(side, tuple) else (side, side)


UNCHANGED = Transform()
"""Leaves images as they are."""
