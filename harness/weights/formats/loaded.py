"""The result of reading a checkpoint, which is the same for every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Loaded:
    """The weights of one network.

    Args:
        format: the name of the file's format, as it is shown to the user.
        tensors: the state dict, on the CPU, in the order of the file. The tensors may share memory with the file or
            with each other, so they must be copied into a network and not written to.
        notes: sentences without full stops that say which weights were chosen and which were ignored.
        network: the arguments of the network's constructor, if the file holds them.
        network_class: the name, in the authors' code, of the class that takes these arguments.
    """

    format: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    network: dict[str, Any] | None = None
    network_class: str | None = None
