"""What torch.load gives, and the state dict in it, whatever the training script wrapped around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError, blame
from harness.formats import names, score_sde, tensors
from harness.formats.loaded import Loaded
from harness.formats.source import Source

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
SHOWN = 5


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
            f"PyTorch cannot read the file as plain tensors: {blame(error)}",
            remedy="It is damaged, or holds code, which is never run; save the network's state_dict alone",
        ) from error


def state_dict(content: Any, layout: str, ema: bool) -> Loaded:
    """The weights in what a file holds: bare, in a training script's dictionary, or a score-SDE training state.

    Args:
        content: as loaded.
        layout: what the file is, for people.
        ema: of a training state, the averaged weights rather than the last.

    Raises:
        UserError: there are no weights, or more than one set of them.
    """
    if score_sde.recognises(content):
        found, notes = score_sde.read(content, ema)
        layout = f"score-SDE training state ({layout})"
    else:
        found, notes = _plain(content)
    return Loaded(layout, found, tuple(notes))


def _plain(content: Any) -> tuple[dict[str, Tensor], list[str]]:
    if not isinstance(content, dict):
        raise UserError(f"The file holds a {type(content).__name__}, not a state dict", remedy=_remedy())
    if _is_state_dict(content):
        return names.unwrapped(content)
    present = [key for key in WRAPPERS if _is_state_dict(content.get(key))]
    if len(present) != 1:
        keys = ", ".join(repr(key)[:50] for key in list(content)[:SHOWN])
        what = f"state dicts under {' and '.join(present)}" if present else f"no state dict, but {keys or 'nothing'}"
        raise UserError(f"The file holds {what}", remedy=_remedy())
    rest = [repr(key)[:50] for key in content if key != present[0]]
    notes = [f"taken from '{present[0]}'"]
    if rest:
        notes.append(f"left aside: {', '.join(rest[:SHOWN])}{', …' if len(rest) > SHOWN else ''}")
    found, renamed = names.unwrapped(content[present[0]])
    return found, notes + renamed


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def _remedy() -> str:
    return f"Save one state dict, bare or under one of {', '.join(WRAPPERS)}"
