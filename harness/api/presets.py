"""`attacks/presets.yaml`: which attacks a preset stands for, and which budgets are usual. No name of one is in code."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from harness.config.registry import PACKAGES
from harness.config.validation import parse
from harness.config.yaml_file import read
from harness.process.foreign_code import folder_of
from harness.quantity import Quantity

FILE = "presets.yaml"

Budgets = dict[str, Quantity]
"""eps by norm."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PresetAttack(_Section):
    """One column of the table: an attack's entry for each kind of defense; None leaves it out.

    norms: those that the attack is for; None, all.
    """

    norms: tuple[str, ...] | None = None
    deterministic: dict[str, Any] | None
    stochastic: dict[str, Any] | None


class BudgetsBySide(_Section):
    """up_to: pixels of the larger side."""

    up_to: Annotated[int, Field(ge=1)]
    eps: Budgets


class Presets(_Section):
    """The whole file."""

    presets: dict[str, dict[str, PresetAttack]]
    budgets: dict[str, Budgets]
    budgets_by_side: list[BudgetsBySide]

    def usual(self, dataset: str, shape: tuple[int, ...]) -> Budgets:
        """The budgets that papers use for a dataset, or else for colour images of this shape, (C, H, W)."""
        if dataset in self.budgets:
            return self.budgets[dataset]
        if shape[0] != 3:
            return {}
        return next((entry.eps for entry in self.budgets_by_side if max(shape[1:]) <= entry.up_to), {})


@cache
def presets() -> Presets:
    """The file, as it comes with the attacks."""
    path = (folder_of(PACKAGES["attacks"]) or Path()) / FILE
    return parse(Presets, read(path).root, FILE)
