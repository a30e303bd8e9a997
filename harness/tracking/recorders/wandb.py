"""Weights & Biases, in the project WHERE.

With `harness --offline` or WANDB_MODE=offline it writes a folder `wandb`, which `wandb sync` uploads later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from harness.settings import offline
from harness.tracking.recorder import Recorder, required

WHERE = "a project"


def recorder(where: str) -> Recorder:
    """A recorder for the project `where`, or ENTITY/PROJECT."""
    return _WandB(required("wandb", "wandb"), where)


class _WandB(Recorder):
    def __init__(self, wandb: Any, where: str) -> None:
        self._wandb = wandb
        entity, _, self._project = where.rpartition("/")
        self._entity = entity or None
        self._run: Any = None
        self._defined: set[str] = set()

    def begin(self, name: str, facts: Mapping[str, str]) -> None:
        mode = "offline" if offline() else os.environ.get("WANDB_MODE")
        settings = self._wandb.Settings(console="off", silent=True)
        options = {"project": self._project, "entity": self._entity, "name": name, "config": dict(facts)}
        self._run = self._wandb.init(**options, mode=mode, settings=settings, reinit="finish_previous")

    def record(self, numbers: Mapping[str, float], step: int) -> None:
        """W&B counts steps for a whole run; here each pairing has its own, the number of its images."""
        group = next(iter(numbers)).rpartition("/")[0]
        axis = f"{group}/step"
        for name in numbers.keys() - self._defined:
            self._run.define_metric(name, step_metric=axis)
            self._defined.add(name)
        self._run.log({**numbers, axis: step})

    def end(self, text: str) -> None:
        self._run.summary["table"] = text
        self._run.finish()
