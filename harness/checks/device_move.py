"""Whether all of a defense moves along to another device, checked on a machine that may have only one.

Torch's "meta" device holds shapes and no values. With parameters, buffers and images there, an operation that meets a
tensor from elsewhere is one that would fail on a GPU: a constant that is no buffer, a network in a plain list, a tensor
made without `device=`. Code that asks for values (`.item()`, `nonzero()`) cannot be followed there; then attributes
that `.to()` does not know are pointed out, as they may be moved where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.checks.finding import Outcome, check
from harness.checks.probe import Probe
from harness.randomness import fenced

META = torch.device("meta")
COPY = torch.ops.aten.copy_.default
INDEX = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
"""Of a tensor on a GPU, indices may be on the CPU."""


class _Stranded(Exception):
    """An operation met tensors of two devices. tensor: the one that stayed behind."""

    def __init__(self, tensor: Tensor, operation: str) -> None:
        super().__init__(operation)
        self.tensor, self.operation = tensor, operation


class _OneDevice(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        behind = [tensor for tensor in given if tensor.device != META and tensor.dim()]
        allowed = func == COPY or (func in INDEX and given[0].device == META)
        if behind and len(behind) < len(given) and not allowed:
            raise _Stranded(behind[0], func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@check("moves with .to(device)")
def movable(probe: Probe) -> Outcome:
    unknown = dict(_left_behind(probe.defense))
    try:
        output = _elsewhere(probe)
    except _Stranded as error:
        return "failed", f"{_describe(error, unknown)}: use self.register_buffer, or make it on x.device"
    except Exception:  # whatever needs values fails on meta, in its own way; the attributes can be looked at still
        if unknown:
            return "warned", f".to() leaves {_some(unknown)} behind: use self.register_buffer, or a ModuleList"
        return "passed", "all its tensors are parameters and buffers"
    if output.device != META:
        return "failed", f"images on another device give logits on {output.device}"
    return "passed", "nothing is left behind on another device"


def _elsewhere(probe: Probe) -> Tensor:
    """The logits when everything that `.to()` moves, and the images, are on the meta device."""
    defense = probe.defense
    moved = {name: tensor.to(META) for name, tensor in (*defense.named_parameters(), *defense.named_buffers())}
    with torch.no_grad(), fenced(0), _OneDevice():
        logits: Tensor = functional_call(defense, moved, (probe.x.to(META),))
    return logits


def _left_behind(defense: nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """Attributes that hold tensors, or networks, which are neither parameters, buffers nor submodules."""
    known = {id(tensor) for tensor in (*defense.parameters(), *defense.buffers())}
    for path, module in defense.named_modules():
        for key in sorted(vars(module).keys() - {"_parameters", "_buffers", "_modules"}):
            if tensors := [tensor for tensor in _tensors(vars(module)[key]) if id(tensor) not in known]:
                yield (f"{path}.{key}" if path else key), tensors


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from (*value.parameters(), *value.buffers())
    elif isinstance(value, Mapping):
        yield from _all(value.values())
    elif isinstance(value, list | tuple):
        yield from _all(value)


def _all(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        yield from _tensors(value)


def _describe(error: _Stranded, unknown: Mapping[str, list[Tensor]]) -> str:
    storage = error.tensor.untyped_storage().data_ptr()
    owners = [name for name, kept in unknown.items() if storage in (t.untyped_storage().data_ptr() for t in kept)]
    what = f"`{owners[0]}`" if owners else "a tensor made on the way"
    shape, place = tuple(error.tensor.shape), error.tensor.device
    return f"{what}, of shape {shape}, stays on {place} when the defense moves to another device ({error.operation})"


def _some(unknown: Mapping[str, list[Tensor]]) -> str:
    names = [f"`{name}`" for name in unknown]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
