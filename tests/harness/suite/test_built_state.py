"""The state of a built object is all that it holds: equal where that is equal, another where anything differs."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.quantity import Quantity
from harness.suite.built_state import state
from harness.threat import L2, Linf


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def closure(value: object) -> Callable[[], object]:
    return lambda: value


def network(bias: float, *, shared: bool = False) -> nn.Module:
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.5)  # type: ignore[arg-type]
        nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, layers[1] if shared else nn.Identity())


def cyclic(value: object) -> Plain:
    found = Plain(value)
    found.me = found  # type: ignore[attr-defined]
    return found


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "number": (lambda: 1, lambda: 2),
    "type of number": (lambda: 1, lambda: 1.0),
    "truth": (lambda: True, lambda: 1),
    "text": (lambda: "a", lambda: "b"),
    "nothing": (lambda: None, lambda: ""),
    "tensor": (lambda: torch.zeros(2), lambda: torch.ones(2)),
    "one bit of a tensor": (lambda: torch.ones(2), lambda: torch.ones(2).nextafter(torch.zeros(1))),
    "shape": (lambda: torch.zeros(2, 3), lambda: torch.zeros(3, 2)),
    "dtype": (lambda: torch.zeros(4, dtype=torch.int32), lambda: torch.zeros(4, dtype=torch.float32)),
    "half": (lambda: torch.ones(2).bfloat16(), lambda: torch.zeros(2).bfloat16()),
    "scalar": (lambda: torch.tensor(1.0), lambda: torch.tensor(2.0)),
    "complex, seen conjugated": (lambda: torch.tensor([1 + 2j]).conj(), lambda: torch.tensor([1 + 2j])),
    "sparse": (lambda: torch.eye(3).to_sparse(), lambda: (2 * torch.eye(3)).to_sparse()),
    "transposed": (lambda: torch.arange(6).view(2, 3).t(), lambda: torch.arange(6).view(3, 2)),
    "array": (lambda: np.zeros(3), lambda: np.ones(3)),
    "array of objects": (lambda: np.array([{1: 2}, None]), lambda: np.array([{1: 3}, None])),
    "list": (lambda: [1, [2]], lambda: [1, [3]]),
    "dict": (lambda: {"a": 1}, lambda: {"a": 2}),
    "order of a dict": (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    "set": (lambda: {"a", "b", "c"}, lambda: {"a", "b", "d"}),
    "nesting": (lambda: [["a"], "b"], lambda: [["a", "b"]]),
    "object": (lambda: Plain(1), lambda: Plain(2)),
    "slots": (lambda: Slotted(1), lambda: Slotted(2)),
    "class": (lambda: Plain(1), lambda: Slotted(1)),
    "cycle": (lambda: cyclic(1), lambda: cyclic(2)),
    "closure": (lambda: closure(1), lambda: closure(torch.ones(1))),
    "partial": (lambda: functools.partial(max, 1), lambda: functools.partial(max, 2)),
    "NumPy's generator": (lambda: np.random.default_rng(1), lambda: np.random.default_rng(2)),
    "Python's generator": (lambda: random.Random(1), lambda: random.Random(2)),
    "torch's generator": (lambda: torch.Generator().manual_seed(1), lambda: torch.Generator().manual_seed(2)),
    "quantity": (lambda: Quantity("8/255"), lambda: Quantity("4/255")),
    "threat": (lambda: Linf(Quantity("8/255")), lambda: L2(Quantity("8/255"))),
    "network": (lambda: network(0.0), lambda: network(1.0)),
    "shared layer": (lambda: network(0.0), lambda: network(0.0, shared=True)),
    "lock": (lambda: threading.Lock(), lambda: None),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_things_have_one_state_and_others_another(name: str) -> None:
    one, other = PAIRS[name]
    assert state(Plain(one())) == state(Plain(one()))
    assert state(Plain(one())) != state(Plain(other()))


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = network(0.0)
        self.register_buffer("kept", torch.zeros(2))
        self.register_buffer("passing", torch.zeros(2), persistent=False)
        self.sigma, self._own = 0.1, [1]


def test_each_attribute_of_a_module_is_named() -> None:
    before = state(Module())
    assert before.keys() == {"layer", "kept", "passing", "sigma", "_own"}
    changed = Module().eval().requires_grad_(False)
    assert state(changed) == before
    changed.passing += 1
    changed._own.append(2)
    assert {name for name, value in state(changed).items() if before[name] != value} == {"passing", "_own"}
    assert state(changed, skipped=["passing", "_own"]).items() <= before.items()


def test_a_path_counts_by_what_lies_there_and_not_by_its_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.bin").write_bytes(b"1")
    one, other = tmp_path / "a/x.bin", tmp_path / "b/x.bin"
    for kind in (Path, str):
        assert state(Plain(kind(one))) == state(Plain(kind(other)))
    other.write_bytes(b"2")
    for kind in (Path, str):
        assert state(Plain(kind(one))) != state(Plain(kind(other)))
    assert state(Plain(tmp_path / "a/absent")) == state(Plain(tmp_path / "b/absent"))


def test_what_holds_itself_without_end_is_cut_off() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert state(Plain(deep)) == state(Plain(deep))
