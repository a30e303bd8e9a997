"""Decodes one image file to float32 in [0, 1] exactly as stored: without rotation or guesses; resized only on request.

    grey                 1, 2, 4, 8 and 16 bits, and floating point in [0, 1]      (H, W)
    colour               8 bits; CMYK and YCbCr as Pillow, and so torchvision, converts them    (H, W, 3)
    palette              its colours; grey where all of them are
    alpha                ignored if the image is opaque

The following are rejected with a message: 16 bits in colour (Pillow would keep 8 of them), integers of 32 bits (their
range is unknown), transparency, several pictures in one file, and an EXIF tag that rotates the image (viewers apply it;
most networks were trained without).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Image as Picture
from PIL.ImageFile import ImageFile as Opened
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from harness.datasets.transform import LARGEST, UNCHANGED, Transform
from harness.errors import UserError
from harness.threat import TOLERANCE

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
GREY = ("1", "L", "LA")
COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
BLACK_IS_ZERO = 1
"""TIFF's photometric interpretation of grey; 0 is the reverse, which Pillow only supports with 8 bits."""

IN_RANGE = "Give floating point in [0, 1]"
"""What to do about values outside that range."""

OF_BYTES = "Divide them by 255, or give them as uint8"
"""What to do where they look like bytes."""

UPRIGHT = (0, 1)
"""Values of EXIF's orientation without rotation."""


def decode(stream: IO[bytes], transform: Transform = UNCHANGED, *, any_orientation: bool = False) -> np.ndarray:
    """Decodes a file to (H, W) if it is grey, otherwise to (H, W, 3): float32 in [0, 1].

    Args:
        transform: resizes and crops the decoded image.
        any_orientation: ignore an EXIF tag that rotates the image, as the loaders of networks' training do.

    Raises:
        UserError: it is not an image, is ambiguous, or is too small for the transform; the message continues a sentence
            that starts with the file's name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about metadata, which is not used
            with Image.open(stream, formats=FORMATS) as image:
                _refuse(image, any_orientation)
                return _values(image, transform)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"is not a readable image, of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow may raise anything for a damaged file
        raise UserError(f"is not a readable image: {error}") from error


def unit_range(values: np.ndarray) -> np.ndarray:
    """Converts floating point in [0, 1] to float32, and clips values outside by at most `TOLERANCE` (rounding).

    Raises:
        UserError: values are further outside, or not finite; the message continues a sentence about the values.
    """
    if not np.isfinite(values).all():
        raise UserError("contain NaN or infinity", remedy="Give finite numbers in [0, 1]")
    low, high = float(values.min(initial=0)), float(values.max(initial=1))
    excess = max(-low, high - 1)
    if excess > TOLERANCE:
        raise UserError(
            f"span {float(values.min())!r} to {float(values.max())!r}, up to {excess:.3g} outside [0, 1]",
            remedy=OF_BYTES if low >= 0 and 2 < high <= 255 else IN_RANGE,
        )
    found = values.astype(np.float32)
    return found.clip(0, 1) if found.min(initial=0) < 0 or found.max(initial=1) > 1 else found


def _refuse(image: Opened, any_orientation: bool) -> None:
    """Raises UserError for what can be rejected before an image is decoded."""
    if image.width * image.height > LARGEST:
        raise UserError(f"has {image.width}x{image.height} pixels, more than {LARGEST:,}", remedy="Resize it")
    if getattr(image, "is_animated", False):
        raise UserError("contains several pictures", remedy="Save only the intended one")
    if image.mode not in (*DEEP, *GREY, *COLOUR, "I", "F"):
        raise UserError(f"has Pillow's mode {image.mode}, which is not supported", remedy="Save it as RGB or grey")
    if image.mode not in DEEP and any(";16" in part for part in _layout(image)):
        raise UserError(
            "has 16 bits in each of several channels, of which 8 would be lost",
            remedy="Save it with 8, or all images as floating point in an .npz file",
        )
    if not any_orientation and image.getexif().get(ExifTags.Base.Orientation, 1) not in UPRIGHT:
        raise UserError(
            "has an EXIF orientation, which viewers apply and most networks were trained without",
            remedy="Save it in the intended orientation without that tag; PIL.ImageOps.exif_transpose rotates it",
        )


def _layout(image: Opened) -> Iterator[str]:
    """The pixel layout of the file, in Pillow's terms. In a BMP, 16 bits are those of all channels together."""
    for tile in image.tile if image.format in ("PNG", "TIFF") else ():
        arguments: Any = tile[3]
        yield from (str(part) for part in (arguments if isinstance(arguments, tuple) else [arguments]))


def _values(image: Opened, transform: Transform) -> np.ndarray:
    if image.mode in (*DEEP, "I", "F"):
        return _transformed(_deep(image), transform)
    alpha = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
    if alpha and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise _transparent()
    if image.mode in GREY:
        return _scaled(transform(image.convert("L")))
    colours = image.convert("RGB")
    if image.mode in ("P", "PA") and _is_grey(np.asarray(colours)):
        return _scaled(transform(colours.getchannel(0)))
    return _scaled(transform(colours))


def _is_grey(colours: np.ndarray) -> bool:
    """Whether the channels of an image, (H, W, 3), are equal."""
    return bool((colours == colours[..., :1]).all())


def _transformed(values: np.ndarray, transform: Transform) -> np.ndarray:
    """The transform of an image in floating point, (H, W); interpolation may leave [0, 1] by more than rounding."""
    if transform == UNCHANGED:
        return values
    return np.clip(np.asarray(transform(Image.fromarray(values))), 0, 1)


def _transparent() -> UserError:
    message = "is transparent in places, so that its colours depend on an unknown background"
    return UserError(message, remedy="Save it without transparency, on the intended background")


def _scaled(image: Picture) -> np.ndarray:
    return np.asarray(image).astype(np.float32) / np.float32(255)


def _deep(image: Opened) -> np.ndarray:
    """Grey of 16 bits, or floating point. The range of all other formats with these modes is unknown."""
    tags: Any = getattr(image, "tag_v2", {})
    plain = image.format == "PNG" or tags.get(PHOTOMETRIC_INTERPRETATION) == BLACK_IS_ZERO
    sixteen = image.mode in DEEP or (image.mode == "I" and image.format == "PNG")  # "I" by Pillow before 11
    if plain and sixteen and tags.get(BITSPERSAMPLE, (16,)) == (16,):
        values = np.asarray(image)
        if (values == image.info.get("transparency", -1)).any():
            raise _transparent()
        return values.astype(np.float32) / np.float32(65535)
    if plain and image.mode == "F":
        return _float(np.asarray(image))
    raise UserError(
        "has numbers of unknown range (for example integers of 32 or 12 bits, or white as 0)",
        remedy="Save it with 8 or 16 bits, or as floating point in [0, 1]",
    )


def _float(values: np.ndarray) -> np.ndarray:
    try:
        return unit_range(values)
    except UserError as error:
        raise UserError(f"has values that {error.message}", remedy=error.remedy) from error
