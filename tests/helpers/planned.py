"""A suite of a user's own classes, as written and with something in it changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.suite import Plan, load_suite
from helpers.modules import source

FAKES = source("typed")


SUITE = """\
suite: small
title: A small suite
dataset: {name: digits, split: test, size: 12}
protocol: {votes: 2, shard: 4, gates: off}
x-shared: &typed
  type: ./fakes.py:Typed
  count: 3
defaults:
  attacks:
    steps: 2
defenses:
  plain: {type: ./fakes.py:Plain, label: Nothing}
  typed:
    <<: *typed
    rate: 1e-1
attacks:
  linf:
    type: ./fakes.py:Ball
    norm: Linf
    eps: 8/255
  l2: {type: ./fakes.py:Ball, norm: L2, eps: 0.5}
pairings:
  - {defense: [typed, plain], attack: linf}
  - defense: plain
    attack: l2
    with: {steps: 9}
report:
  average: [linf, l2]
"""


def plan(folder: Path, text: str = SUITE, **options: Any) -> Plan:
    (folder / "suite.yaml").write_text(text)
    return load_suite(folder / "suite.yaml", **options)


def changed(old: str, new: str) -> str:
    assert old in SUITE
    return SUITE.replace(old, new)


def refusal(folder: Path, text: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan(folder, text, **options)
    return str(caught.value).removeprefix(f"{folder}/")


def typed(folder: Path, arguments: str) -> dict[str, Any]:
    text = changed("    rate: 1e-1\n", "".join(f"    {line}\n" for line in arguments.splitlines()))
    return next(c.defense.arguments for c in plan(folder, text).cells if c.defense.name == "typed")
