"""Defenses of checkpoints that are not here: their architectures, on PyTorch's "meta" device, have no memory.

That is enough to count network evaluations. It works inside the block of
`harness.dry_run.placeholders.placeholder_cache`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from harness.config.component import Component
from harness.dry_run.fake_checkpoints import write
from harness.dry_run.placeholders import absent, is_empty, network_of, with_dataset, zoo_entry
from harness.suite.plan import Cell, Plan
from harness.weights.checkpoint import Checkpoint, build_network


class MetaCheckpoint(Checkpoint):
    """A checkpoint that is not here. Its network has shapes and neither weights nor memory."""

    @cached_property
    def sha256(self) -> str:
        return "not here"

    def network(self, spec: Mapping[str, Any] | None = None) -> nn.Module:
        known = self.card.network if self.card else None
        with torch.device("meta"):
            network = build_network(spec or known or {}, self.base)
        return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class MetaZooModel(Component):
    """A model of RobustBench that is not here, built as a blueprint by RobustBench's own loader."""

    def build(self) -> Any:
        (entry,) = absent(self)
        with torch.device("meta"):
            write(entry.format, network_of(entry), {}, entry.path())
            defense = super().build()
        entry.path().write_bytes(b"")
        return defense


def all_on_meta(plan: Plan) -> Plan:
    """The plan with blueprints of what is not here, inside the block of `cache`."""
    return changed(plan, on_meta)


def changed(plan: Plan, change: Callable[[Component], Component]) -> Plan:
    """The plan with every defense changed, once each."""
    defenses = {cell.defense.name: cell.defense for cell in plan.all_cells}
    new = {name: change(defense) for name, defense in defenses.items()}

    def all_of(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return tuple(Cell(new[cell.defense.name], cell.attack) for cell in cells)

    return replace(plan, cells=all_of(plan.cells), all_cells=all_of(plan.all_cells))


def on_meta(component: Component) -> Component:
    """A defense with blueprints in the place of checkpoints that are not here, and random images likewise."""
    arguments = with_dataset({name: _blueprint(value) for name, value in component.arguments.items()}, component.cls)
    cls = MetaZooModel if (zoo := zoo_entry(component)) and is_empty(zoo.path()) else type(component)
    facts = {field.name: getattr(component, field.name) for field in dataclasses.fields(component)}
    return cls(**facts | {"arguments": arguments})


def _blueprint(value: Any) -> Any:
    if isinstance(value, Checkpoint) and is_empty(value.path):
        return MetaCheckpoint(value.ref, value.path, value.card, value.base)
    return on_meta(value) if isinstance(value, Component) else value
