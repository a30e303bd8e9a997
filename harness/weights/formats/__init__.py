"""Files of weights, of every format that the field publishes in, as one thing: a state dict.

| module | format | published by |
|---|---|---|
| `safe_tensors` | safetensors | Hugging Face, this package |
| `torch_zip`, `torch_legacy` | torch.save since and before PyTorch 1.6: a state dict, bare or wrapped | everyone |
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
"""Tensors that share memory may be together so much larger than their file."""

__all__ = ["Loaded", "read"]


def read(path: Path, *, ema: bool = True, key: str | None = None) -> Loaded:
    """The weights in a file.

    Args:
        path: the file; symbolic links are followed.
        ema: of a score-SDE training state, take the averaged weights rather than the last.
        key: which weights, of a file that holds more than one set, see `harness.weights.formats.choice`.

    Raises:
        UserError: there is no such regular file, it is of no supported format, damaged, or holds code.
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
    """A message that quotes the file cannot steer the terminal it is shown on."""
    return "".join(character if character.isprintable() else "?" for character in message)
