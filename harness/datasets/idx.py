"""Reads arrays of bytes in the IDX format of MNIST (http://yann.lecun.com/exdb/mnist), gzipped or not.

two zero bytes, the type (8: unsigned bytes), the number of dimensions, their sizes as big-endian int32, the bytes
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from harness.errors import Place, UserError

UNSIGNED_BYTES = 8

LARGEST = 2**30
"""The largest number of bytes of an array. It protects the memory."""


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An array, uint8, with so many dimensions.

    Args:
        path: the file; it is unpacked if its content is gzipped.

    Raises:
        UserError: the file is not of that form, or is cut short.
    """
    content = _content(path)
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise UserError(f"not an IDX file of {dimensions} dimensions of bytes", where=Place(path))
    shape = tuple(int(size) for size in np.frombuffer(content, ">i4", dimensions, 4))
    if min(shape) < 0 or len(content) - head != math.prod(shape):
        raise UserError(
            f"its head announces {shape}, and {len(content) - head:,} bytes follow",
            remedy="It was cut short or changed: download it again",
            where=Place(path),
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"it cannot be read: {error}", remedy="Download it again", where=Place(path)) from error
    if len(content) > LARGEST:
        raise UserError(f"it has more than {LARGEST:,} bytes", where=Place(path))
    return content
