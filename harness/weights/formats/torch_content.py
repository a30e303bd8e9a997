"""What torch.load gives, and the state dict in it, whatever the training script wrapped around it."""

from __future__ import annotations

from typing import Any

import torch

from harness.errors import UserError, one_line
from harness.weights.formats import choice, score_sde, state_dict_keys, tensors
from harness.weights.formats.file import Source
from harness.weights.formats.loaded import Loaded


def _counter(counts: Any) -> dict[str | int, int]:
    if type(counts) is not dict:
        raise ValueError("a counter of no dictionary")
    return counts


TABLE: dict[str, Any] = {**tensors.TABLE, "collections.Counter": _counter}
"""What a file of torch.save may name: tensors, and what the states of schedulers hold."""


def load(source: Source, mapped: bool) -> Any:
    """The object in a file of torch.save whose declared sizes have been checked.

    Args:
        source: the file.
        mapped: leave the bytes of tensors on disk until they are used; zip files only.

    Raises:
        UserError: PyTorch cannot read it as plain data.
    """
    try:
        return torch.load(source.path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of PyTorch, of any kind: what it means to the user is the same
        raise UserError(
            f"PyTorch cannot read the file as plain tensors: {one_line(error)}",
            remedy="It is damaged, or holds code, which is never run; save the network's state_dict alone",
        ) from error


def state_dict(content: Any, layout: str, ema: bool, key: str | None) -> Loaded:
    """The weights in what a file holds: bare, in a training script's dictionary, or a score-SDE training state.

    Args:
        content: as loaded.
        layout: what the file is, for people.
        ema: of a training state, the averaged weights rather than the last.
        key: which of several state dicts, see `harness.weights.formats.choice`.

    Raises:
        UserError: there are no weights, or more than one set of them.
    """
    if not isinstance(content, dict):
        raise UserError(
            f"The file holds a {type(content).__name__}, not a state dict", remedy="Save the network's state_dict"
        )
    if score_sde.recognises(content) and key in (None, *score_sde.KEYS):
        found, notes = score_sde.read(content, ema if key is None else key == score_sde.KEYS[0])
        return Loaded(f"score-SDE training state ({layout})", found, tuple(notes))
    found, notes = choice.chosen(content, key)
    found, renamed = state_dict_keys.unwrapped(found)
    return Loaded(layout, found, (*notes, *renamed))
