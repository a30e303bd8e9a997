"""Reads safetensors files: 8 bytes with the length of the header, the header in JSON, and the bytes of the tensors."""

from __future__ import annotations

import safetensors.torch

from harness.errors import UserError, one_line
from harness.weights.formats import choice, state_dict_keys
from harness.weights.formats.file import FETCH_AGAIN, Source
from harness.weights.formats.loaded import Loaded

LENGTH = 8
LARGEST_HEADER = 100_000_000
"""The largest number of bytes that the format allows for a header."""


def recognises(source: Source) -> bool:
    """Tells whether the file begins with a plausible length of a header, and the header with a brace."""
    return _header(source) <= LARGEST_HEADER and source.head[LENGTH : LENGTH + 1] == b"{"


def read(source: Source, ema: bool, key: str | None) -> Loaded:
    """Reads the tensors in the file.

    Args:
        source: the file.
        ema: not used, since such a file holds no training state.
        key: the prefix of the tensors that are wanted, or None for all of them.

    Raises:
        UserError: the file is incomplete or does not conform to the format.
    """
    if _header(source) > source.size - LENGTH:
        raise UserError(
            f"The file has {source.size:,} bytes, but says that its safetensors header alone has {_header(source):,}",
            remedy=FETCH_AGAIN,
        )
    try:
        tensors = safetensors.torch.load_file(source.path)
    except Exception as error:  # the library raises many kinds, which all mean the same to the user
        raise UserError(f"This is not a sound safetensors file: {one_line(error)}", remedy=FETCH_AGAIN) from error
    tensors, notes = choice.chosen(tensors, key) if key else (tensors, [])
    tensors, renamed = state_dict_keys.unwrapped(tensors)
    return Loaded("safetensors", tensors, (*notes, *renamed))


def _header(source: Source) -> int:
    """Returns the number of bytes that the file states for its header."""
    return int.from_bytes(source.head[:LENGTH], "little")
