"""What a checkpoint of any format becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Loaded:
    """The weights of one network.

    Args:
        format: what the file was found to be, for people.
        tensors: the state dict, on the CPU, in the order of the file. Tensors may share memory with the file or with
            each other: copy them into a network, do not write to them.
        notes: what was chosen or left out on the way, one sentence each, without their full stops.
        network: the constructor's arguments as published, where the file holds them.
        network_class: the published name of the class that takes those arguments.
    """

    format: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    network: dict[str, Any] | None = None
    network_class: str | None = None
