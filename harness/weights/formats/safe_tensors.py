"""safetensors: 8 bytes with the length of a header, the header in JSON, and the bytes of the tensors."""

from __future__ import annotations

import safetensors.torch

from harness.errors import UserError, one_line
from harness.weights.formats import choice, state_dict_keys
from harness.weights.formats.file import FETCH_AGAIN, Source
from harness.weights.formats.loaded import Loaded

LENGTH = 8
LARGEST_HEADER = 100_000_000
"""In bytes: the format's own limit."""


def recognises(source: Source) -> bool:
    """Whether the file begins with the length of a header, and the header with a brace."""
    return _header(source) <= LARGEST_HEADER and source.head[LENGTH : LENGTH + 1] == b"{"


def read(source: Source, ema: bool, key: str | None) -> Loaded:
    """The tensors in the file.

    Args:
        source: the file.
        ema: without meaning here: such a file has no training state.
        key: the prefix of the tensors that are meant, where they are not all.

    Raises:
        UserError: the file is cut short or does not keep to the format.
    """
    if _header(source) > source.size - LENGTH:
        raise UserError(
            f"The file has {source.size:,} bytes, but says that its safetensors header alone has {_header(source):,}",
            remedy=FETCH_AGAIN,
        )
    try:
        tensors = safetensors.torch.load_file(source.path)
    except Exception as error:  # of the library, of any kind: what it means to the user is the same
        raise UserError(f"This is not a sound safetensors file: {one_line(error)}", remedy=FETCH_AGAIN) from error
    tensors, notes = choice.chosen(tensors, key) if key else (tensors, [])
    tensors, renamed = state_dict_keys.unwrapped(tensors)
    return Loaded("safetensors", tensors, (*notes, *renamed))


def _header(source: Source) -> int:
    return int.from_bytes(source.head[:LENGTH], "little")
