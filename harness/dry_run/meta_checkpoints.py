"""Defenses whose checkpoints are missing: their architectures, on PyTorch's "meta" device, take no memory.

That is enough to count network evaluations. It works inside the block of
`harness.dry_run.placeholders.placeholder_cache`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from harness.config.component import Component, recast
from harness.dry_run.fake_checkpoints import write
from harness.dry_run.placeholders import absent, is_empty, network_of, with_dataset, zoo_entry
from harness.suite.plan import Cell, Plan
from harness.weights.checkpoint import Checkpoint, build_network


class MetaCheckpoint(Checkpoint):
    """A checkpoint that is missing. Its network has shapes and neither weights nor memory."""

    @cached_property
    def sha256(self) -> str:
        return "missing"

    def network(self, spec: Mapping[str, Any] | None = None) -> nn.Module:
        known = self.card.network if self.card else None
        with torch.device("meta"):
            network = build_network(spec or known or {}, self.base)
        return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class MetaZooModel(Component):
    """A model of RobustBench that is missing, built on the meta device by RobustBench's own loader."""

    def build(self) -> Any:
        (entry,) = absent(self)
        with torch.device("meta"):
            write(entry.format, network_of(entry), {}, entry.path())
            defense = super().build()
        entry.path().write_bytes(b"")
        return defense


def all_on_meta(plan: Plan) -> Plan:
    """The plan with missing checkpoints on the meta device, inside the block of `placeholder_cache`."""
    return changed(plan, on_meta)


def changed(plan: Plan, change: Callable[[Component], Component]) -> Plan:
    """The plan with every defense changed, once each."""
    defenses = {cell.defense.name: cell.defense for cell in plan.all_cells}
    new = {name: change(defense) for name, defense in defenses.items()}

    def all_of(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return tuple(Cell(new[cell.defense.name], cell.attack) for cell in cells)

    return replace(plan, cells=all_of(plan.cells), all_cells=all_of(plan.all_cells))


def on_meta(component: Component) -> Component:
    """A defense with missing checkpoints on the meta device, and random images for a missing dataset."""
    arguments = with_dataset(
        {name: _argument_on_meta(value) for name, value in component.arguments.items()}, component.cls
    )
    cls = MetaZooModel if (zoo := zoo_entry(component)) and is_empty(zoo.path()) else type(component)
    return recast(component, cls, arguments=arguments)


def _argument_on_meta(value: Any) -> Any:
    if isinstance(value, Checkpoint) and is_empty(value.path):
        return MetaCheckpoint(value.ref, value.path, value.card, value.base)
    return on_meta(value) if isinstance(value, Component) else value
