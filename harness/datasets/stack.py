"""Stacks image files of a split, of which some are chosen, to one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.errors import UserError

REMEDY = "Give all images one size: set `resize:` and `crop:` under `dataset:`, such as 256 and 224"


def stack(
    count: int, rows: Sequence[int], decoded: Callable[[int], np.ndarray], name: Callable[[int], str]
) -> np.ndarray:
    """Stacks the chosen images to (N, C, H, W), float32 in [0, 1].

    C is 1 if all images of the split are grey, chosen or not, so that it does not depend on the choice; otherwise it is
    3, and grey images are copied to all three channels.

    Args:
        count: the number of images of the split.
        rows: the chosen ones, in the order wanted.
        decoded: decodes one of them to (H, W) if it is grey, otherwise to (H, W, 3).
        name: what to call one of them in messages.

    Raises:
        UserError: the images have different sizes, or for the reasons of `decoded`.
    """
    images: list[np.ndarray] = []
    for row in rows:
        images.append(decoded(row))
        (height, width), first = images[-1].shape[:2], images[0].shape
        if (height, width) != first[:2]:
            message = f"{name(row)} is {width}x{height} and {name(rows[0])} is {first[1]}x{first[0]}"
            raise UserError(message, remedy=REMEDY)
    others = set(range(count)).difference(rows)
    coloured = any(image.ndim == 3 for image in images) or any(decoded(row).ndim == 3 for row in sorted(others))
    stacked = np.empty((len(images), 3 if coloured else 1, *images[0].shape[:2]), dtype=np.float32)
    for at in reversed(range(len(images))):
        image = images.pop()  # frees the memory of each image after it is copied
        stacked[at] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return stacked


def refuse_outside(rows: Sequence[int], count: int, what: str) -> None:
    """Raises UserError if a chosen index is not one of `count` images. what: the split, for the message."""
    outside = [row for row in rows if not 0 <= row < count]
    if outside:
        raise UserError(f"index {outside[0]} is not in {what}", remedy=f"Valid indices: 0 to {count - 1}")
