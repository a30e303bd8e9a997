"""A device that refuses to be waited for: PyTorch's meta device, whose tensors have shapes and no values.

Tensors on the host stay real. What moves a value between the two is an error, and so is what needs a value on the host
(`item`, `nonzero`, a mask as an index): on a GPU each of them makes the host wait until everything queued has run. So
is an operation on tensors of both, which a GPU refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from defenses.diffusion.constants import Constants
from harness.process import waits

DEVICE = torch.device("meta")

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)


class Waited(Exception):
    """The host would have waited for the device."""


class OneDevice(TorchDispatchMode):
    """Raises `Waited` where an operation mixes the host and the device, or moves values from one to the other.

    copies: whether values may be moved from the host to the device all the same.
    """

    def __init__(self, copies: bool = False) -> None:
        super().__init__()
        self.copies = copies

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        try:
            found = func(*args, **kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if any(part.device == DEVICE for part in given):
                raise Waited(f"{func} needs a value: {error}") from error
            raise
        places = {part.device.type for part in given if part.dim() or func in COPIES}
        if func in COPIES and not self.copies:
            places |= {part.device.type for part in tree_leaves(found)}
        if len(places) > 1:
            raise Waited(f"{func}: between {' and '.join(sorted(places))}")
        return found


class NoLists(TorchFunctionMode):
    """Raises `Waited` where numbers of the host become a tensor on the device, which no operation shows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        indexed = func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == DEVICE
        if indexed and any(isinstance(part, list) for part in (args[1] if isinstance(args[1], tuple) else (args[1],))):
            raise Waited("a list as an index, between cpu and meta")
        found = func(*args, **kwargs)
        made = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and found.device == DEVICE
        if made and not isinstance(args[-1], Tensor):
            raise Waited("a tensor of numbers, between cpu and meta")
        return found


def _kept(self: Constants, key: Hashable, make: Callable[[], Any]) -> Any:
    """`Constants.kept`, whose first copy may be waited for."""
    with _disable_current_modes():
        return kept(self, key, make)


kept = Constants.kept


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """with on_device() as waited: code inside may wait through `harness.process.waits` alone; `waited` lists how.

    With `copies` it may move what it draws or makes on the host to the device, as a training does. As a mask has no
    values, it is taken to hold everywhere, and of whole numbers there is one. Constants are at hand.
    """

    @contextmanager
    def entered(copies: bool = False) -> Iterator[list[str]]:
        waited: list[str] = []

        def instead(name: str, answer: Callable[[Tensor], Any]) -> None:
            real = getattr(waits, name)

            def ask(values: Tensor) -> Any:
                if values.device != DEVICE:
                    return real(values)
                waited.append(name)
                return answer(values)

            patch.setattr(waits, name, ask)

        with monkeypatch.context() as patch, OneDevice(copies), nullcontext() if copies else NoLists():
            instead("places", lambda mask: mask.new_empty((mask.numel(), mask.dim()), dtype=torch.int64))
            instead("on_host", lambda values: torch.zeros(values.shape, dtype=values.dtype))
            instead("some", lambda mask: True)
            instead("distinct", lambda values: [0])
            patch.setattr(Constants, "kept", _kept)
            yield waited

    return entered
