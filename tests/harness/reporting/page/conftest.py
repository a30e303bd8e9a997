"""A run with everything that the page shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import datasets
from harness.results.record import Record
from harness.results.store import Store
from harness.threat import warp
from helpers.page import COUNT, HOSTILE


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record]) -> Path:
    """Two defenses of six digits: one under noise and a flow, one stochastic with a hostile name."""
    maker.count = COUNT
    split = datasets.load("digits", "test")
    indices = list(range(100, 100 + COUNT))
    chosen = split.select(indices)
    flow = torch.zeros(COUNT, 8, 8, 2)
    flow[:, 2:6, 2:6, 0] = 0.25
    noisy = (chosen.images + 0.1).clamp(0, 1)
    noisy[0] = chosen.images[0]
    maker.cell("plain", "linf", [rec(i, "r", "rwwwrr"[i]) for i in range(COUNT)])
    maker.cell("plain", "stadv", [rec(i, "r", "w", flow=0.25) for i in range(COUNT)], threat="Flow 0.25")
    maker.cell("noisy", "linf", [rec(i, "rrr", "rrw") for i in range(COUNT)], stochastic=True, flags=["saturated"])
    maker.defenses["noisy"]["label"] = HOSTILE
    root: Path = maker.finish(
        votes=3,
        dataset={
            "name": "digits",
            "split": "test",
            "count": COUNT,
            "indices": indices,
            "fingerprint": datasets.fingerprint(chosen.images, chosen.labels),
        },
    )
    _picture(root, "plain", "linf", {"images": noisy})
    _picture(root, "noisy", "linf", {"images": noisy})
    _picture(root, "plain", "stadv", {"images": warp(chosen.images, flow), "flow": flow})
    return root


def _picture(root: Path, defense: str, attack: str, tensors: dict[str, Tensor]) -> None:
    """Writes a cell's shards again, with these tensors."""
    cell = Store(root).cell(defense, attack, f"{defense}-{attack}")
    for start, stop in cell.shards():
        records = cell.read(start, stop)
        assert records is not None
        cell.write(start, stop, records, {name: tensor[start:stop] for name, tensor in tensors.items()})
