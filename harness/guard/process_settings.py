"""Settings of the whole process that a user's code may change, which would affect all later rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch


@dataclass(frozen=True)
class _Setting:
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # a default device slows down every call


def _cudnn(deterministic: bool) -> None:
    torch.backends.cudnn.deterministic = deterministic


SETTINGS = (
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("torch's default device", lambda: torch.empty(0).device, _default_device),  # get_default_device is slower
    _Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("torch's deterministic mode", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    _Setting("cuDNN's deterministic mode", lambda: torch.backends.cudnn.deterministic, _cudnn),
    _Setting("the current folder", _folder, _enter),
)
"""All guarded settings. The global generators are restored after every call (`harness.randomness.fenced`)."""


@dataclass(frozen=True)
class Settings:
    """The values of `SETTINGS` at one point in time."""

    values: tuple[Any, ...]

    @classmethod
    def now(cls) -> Settings:
        return cls(tuple(setting.read() for setting in SETTINGS))

    def restore(self) -> list[str]:
        """Restores the settings that have changed since, and describes each change."""
        changed = []
        for setting, before in zip(SETTINGS, self.values, strict=True):
            after = setting.read()
            if after != before:
                changed.append(f"{setting.name} (from {before} to {after})")
                setting.write(before)
        return changed


NUMERICS = ("cuda.matmul", "allow_tf32"), ("cudnn", "allow_tf32"), ("cudnn", "benchmark")
"""Switches in `torch.backends` that affect what a GPU computes."""


@dataclass(frozen=True)
class Numerics:
    """The values of `NUMERICS`, which a process hands on to those that work for it."""

    values: tuple[bool, ...]

    @classmethod
    def now(cls) -> Numerics:
        return cls(tuple(getattr(attrgetter(module)(torch.backends), name) for module, name in NUMERICS))

    def adopt(self) -> None:
        """Makes them those of this process."""
        for (module, name), value in zip(NUMERICS, self.values, strict=True):
            setattr(attrgetter(module)(torch.backends), name, value)
