"""What every step of a run knows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from harness import datasets
from harness.callback import Callback
from harness.datasets.batch import Images
from harness.evaluation.journals import Journals
from harness.evaluation.pending import CellRun
from harness.suite.plan import Plan
from harness.suite.schema import Protocol


@dataclass(frozen=True)
class RunContext:
    """A suite at work, in one process.

    Args:
        plan: the suite.
        cell_runs: every pairing of it.
        dataset: where its images come from; images: those that are attacked, on the CPU.
        device: where this process evaluates defenses.
        callback: is told what happens.
        gpu_memory: by pairing, the largest memory on a GPU that one of its shards took, in bytes, as far as it was
            measured in this session or an earlier one. Engines that measure it add to it.
        journals: where what the shards at work have come to is recorded; None for nowhere.
    """

    plan: Plan
    cell_runs: list[CellRun]
    dataset: datasets.Dataset
    images: Images
    device: torch.device
    callback: Callback
    gpu_memory: dict[str, int] = field(default_factory=dict)
    journals: Journals | None = None

    @property
    def protocol(self) -> Protocol:
        return self.plan.suite.protocol

    @property
    def fingerprint(self) -> str:
        """Of the images and their labels."""
        return datasets.fingerprint(self.images.x, self.images.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image, (C, H, W)."""
        return tuple(self.images.x.shape[1:])
