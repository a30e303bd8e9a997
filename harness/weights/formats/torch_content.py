"""Loads a file of torch.save, and finds the state dict in the dictionary that a training script saved."""

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
"""The globals that a file of torch.save may refer to: tensors, and the counters in the states of schedulers."""


def load(source: Source, mapped: bool) -> Any:
    """Loads the object in a file of torch.save. Its declared sizes must have been checked before.

    Args:
        source: the file.
        mapped: whether to leave the bytes of tensors on disk until they are used, which works for zip files only.

    Raises:
        UserError: PyTorch cannot read the file without executing code.
    """
    try:
        return torch.load(source.path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # PyTorch raises many kinds, which all mean the same to the user
        raise UserError(
            f"PyTorch cannot read the file as plain tensors: {one_line(error)}",
            remedy="It is damaged, or holds code, which is never run; save the network's state_dict alone",
        ) from error


def state_dict(content: Any, layout: str, ema: bool, key: str | None) -> Loaded:
    """Returns the weights in the content of a file.

    The content is a state dict, a dictionary of a training script that contains one, or a score-SDE training state.

    Args:
        content: the object that was loaded from the file.
        layout: the name of the file's format, as it is shown to the user.
        ema: whether to take the averaged weights of a score-SDE training state, not the last ones.
        key: the key of the state dict that is wanted, see `harness.weights.formats.choice`.

    Raises:
        UserError: there are no weights, or there are several sets of weights and no key.
    """
    if not isinstance(content, dict):
        raise UserError(
            f"The file holds a {type(content).__name__}, not a state dict", remedy="Save the network's state_dict"
        )
    if score_sde.recognises(content) and key in (None, *score_sde.KEYS):
        weights, notes = score_sde.read(content, ema if key is None else key == score_sde.KEYS[0])
        return Loaded(f"score-SDE training state ({layout})", weights, tuple(notes))
    weights, notes = choice.chosen(content, key)
    weights, renamed = state_dict_keys.unwrapped(weights)
    return Loaded(layout, weights, (*notes, *renamed))
