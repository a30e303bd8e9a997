"""Writes networks in the file layouts of published checkpoints: the inverse of `harness.weights.formats`.

torch            a state dict
score-sde        a training state whose averaged weights are a list in the order of the parameters
edm              a pickle whose modules are records that would run the source text beside them
robustbench      a state dict under "state_dict"
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from harness.weights.formats.score_sde import NOT_TRAINED

Writer = Callable[[nn.Module, Mapping[str, Any], Path], None]


def write(layout: str, network: nn.Module, spec: Mapping[str, Any], path: Path) -> None:
    """Saves a network in the layout of its authors.

    Args:
        layout: a key of `WRITERS`.
        spec: the network's type and arguments, which some layouts contain.
        path: the file, in an existing folder.
    """
    WRITERS[layout](network, spec, path)


def _state(network: nn.Module, spec: Mapping[str, Any], path: Path) -> None:
    torch.save(network.state_dict(), path)


def _zoo(network: nn.Module, spec: Mapping[str, Any], path: Path) -> None:
    torch.save({"state_dict": network.state_dict()}, path)


def _score_sde(network: nn.Module, spec: Mapping[str, Any], path: Path) -> None:
    state = network.state_dict()
    averages = [value for name, value in state.items() if name not in NOT_TRAINED]
    ema = {"decay": 0.9999, "num_updates": 1, "shadow_params": averages}
    model = {f"module.{name}": value for name, value in state.items()}
    torch.save({"optimizer": {}, "model": model, "ema": ema, "step": 1}, path)


def _edm(network: nn.Module, spec: Mapping[str, Any], path: Path) -> None:
    arguments = {name: value for name, value in spec.items() if name != "type"}
    record = _record(network, "EDMPrecond", _init_args=(), _init_kwargs=arguments)
    content = pickle.dumps({"ema": record}, protocol=3)  # this protocol stores names as lines, which can be replaced
    path.write_bytes(content.replace(_OURS, _THEIRS))


def _record(module: nn.Module, kind: str | None = None, **more: Any) -> Any:
    children = {name: _record(child) for name, child in module._modules.items() if child is not None}
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container._modules.update(children)
        return container
    state = {"_parameters": module._parameters, "_buffers": module._buffers, "_modules": children}
    state |= {"training": False, "_non_persistent_buffers_set": module._non_persistent_buffers_set}
    return _Persistent(kind or type(module).__name__, state | more)


def _reconstruct_persistent_obj(meta: Mapping[str, Any]) -> NoReturn:
    raise pickle.UnpicklingError("a published file is read without executing it, see harness.weights.formats.edm")


class _Persistent:
    """Pickles in the same way as a module of EDM: as a call that would execute the source of its class."""

    def __init__(self, kind: str, state: dict[str, Any]) -> None:
        self.kind, self.state = kind, state

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": "", "class_name": self.kind, "state": self.state}
        return _reconstruct_persistent_obj, (meta,)


_OURS, _THEIRS = (
    f"c{module}\n_reconstruct_persistent_obj\n".encode() for module in (__name__, "torch_utils.persistence")
)

WRITERS: Mapping[str, Writer] = {"torch": _state, "score-sde": _score_sde, "edm": _edm, "robustbench": _zoo}
