"""Reads files of weights, in every format in which the field publishes them, as a state dict.

| module | format | published by |
|---|---|---|
| `safe_tensors` | safetensors | Hugging Face, this package |
| `torch_zip`, `torch_legacy` | torch.save since and before PyTorch 1.6: a state dict, also in a dictionary | everyone |
| `score_sde` | a training state whose averaged weights are a list without names | score-SDE, DiffPure |
| `edm` | a pickle with modules as source text | NVIDIA EDM |

The format is determined by the content of the file, never by its name. Nothing in a file is executed, and no memory is
allocated before the declared sizes have been compared with the size of the file.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import Place, UserError
from harness.weights.formats import edm, safe_tensors, torch_legacy, torch_zip
from harness.weights.formats.file import Source, opened, unrecognised
from harness.weights.formats.loaded import Loaded

FORMATS = (torch_zip, torch_legacy, edm, safe_tensors)
SHARING = 4
"""The tensors of a file may share memory. Together they may be at most this many times as large as the file."""

__all__ = ["Loaded", "read"]


def read(path: Path, *, ema: bool = True, key: str | None = None) -> Loaded:
    """Reads the weights in a file.

    Args:
        path: the file. Symbolic links are followed.
        ema: whether to take the averaged weights of a score-SDE training state, not the last ones.
        key: the name of the weights that are wanted from a file that holds several sets of weights, see
            `harness.weights.formats.choice`.

    Raises:
        UserError: there is no such regular file, or it has no supported format, is damaged or holds code.
    """
    try:
        with opened(path) as source:
            return _checked(_read(source, ema, key), source)
    except UserError as error:
        raise UserError(_printable(error.message), remedy=error.remedy, where=Place(path)) from error


def _read(source: Source, ema: bool, key: str | None) -> Loaded:
    for layout in FORMATS:
        if layout.recognises(source):
            return layout.read(source, ema, key)
    raise unrecognised(source)


def _checked(loaded: Loaded, source: Source) -> Loaded:
    if not loaded.tensors:
        raise UserError("The file holds no tensors", remedy="Save the network's state_dict")
    if not all(name.isprintable() for name in loaded.tensors):
        raise UserError("A tensor in the file has no printable name", remedy="Do not trust it")
    if sum(tensor.nbytes for tensor in loaded.tensors.values()) > SHARING * source.size:
        raise UserError("The tensors are far larger than the file that holds them", remedy="Do not trust it")
    return loaded


def _printable(message: str) -> str:
    """Replaces control characters, since a message may quote the file and must not control the user's terminal."""
    return "".join(character if character.isprintable() else "?" for character in message)
