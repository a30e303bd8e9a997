"""Small stores, written through the real `Store`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.certification.smoothing import certify
from harness.results.record import Record, vote
from harness.results.store import Store

RIGHT, WRONG = 1, 2


def record(index: int, clean: str = "r", adv: str = "r", **changes: Any) -> Record:
    """A record of class RIGHT. clean, adv: a letter per draw, "r" for right and "w" for wrong."""
    draws = {"r": RIGHT, "w": WRONG}
    adv_votes = [draws[letter] for letter in adv]
    facts: dict[str, Any] = {
        "index": 100 + index,
        "label": RIGHT,
        "verdict": "robust" if adv_votes and vote(adv_votes) == RIGHT else "fooled",
        "clean_votes": [draws[letter] for letter in clean],
        "adv_votes": adv_votes,
        "clean_margins": [1.0] * len(clean),
        "adv_margins": [0.5] * len(adv),
        "linf": 0.03,
        "l2": 0.4,
        "l1": 0.4,
        "flow": None,
        "violation": 0.0,
        "forwards": 20,
        "backwards": 10,
        "seconds": 0.1,
        "seed": index,
    }
    return Record(**{**facts, **changes})


@dataclass
class Maker:
    """Writes a run of `count` images in shards of `shard`; every cell's key is its name."""

    root: Path
    count: int = 4
    shard: int = 2
    cells: list[dict[str, Any]] = field(default_factory=list)
    defenses: dict[str, dict[str, Any]] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def cell(self, defense: str, attack: str, records: list[Record], *, stochastic: bool = False, **facts: Any) -> None:
        """A pairing with these records; fewer than `count` leave it unfinished. Facts may name another key."""
        self.defenses.setdefault(defense, {"label": None, "type": "x", "stochastic": stochastic})
        self.attacks.setdefault(attack, {"label": None})
        key = facts.get("key", f"{defense}-{attack}")
        places = {"defense": defense, "attack": attack, "key": key, "count": self.count, "shard": self.shard}
        cell = {**places, "threat": "Linf 8/255", "method": "pgd 20 steps", "flags": [], **facts}
        self.cells.append(cell)
        stored = Store(self.root).cell(defense, attack, key)
        for start in range(0, len(records), self.shard):
            part = records[start : start + self.shard]
            stored.write(start, start + len(part), part, {"images": torch.zeros(len(part), 1, 2, 2)})

    def certificate(self, defense: str, counts: torch.Tensor, *, n0: int, n: int, alpha: float, sigma: float) -> None:
        """A certificate "cohen" of a smoothed defense, with these counts, (count, 2, K); the votes are right."""
        self.defenses.setdefault(defense, {"label": None, "type": "x", "stochastic": True})["smoothing_sigma"] = sigma
        places = {"defense": defense, "attack": "cohen", "key": "cohen", "count": self.count, "shard": self.shard}
        facts = {"threat": "L2 0", "method": "smoothing", "certificate": {"n0": n0, "n": n, "alpha": alpha}}
        self.cells.append({**places, **facts})
        radii = torch.from_numpy(certify(counts.numpy(), n, sigma=sigma, alpha=alpha).radii).float()
        stored = Store(self.root).cell(defense, "cohen", "cohen")
        for start in range(0, self.count, self.shard):
            rows = slice(start, min(start + self.shard, self.count))
            part = [record(place, "r" * 20, "r" * 20, l2=0.0) for place in range(rows.start, rows.stop)]
            tensors = {"images": torch.zeros(len(part), 1, 2, 2), "counts": counts[rows].float(), "radii": radii[rows]}
            stored.write(rows.start, rows.stop, part, tensors)

    def finish(self, *, votes: int = 1, report: dict[str, Any] | None = None, **changes: Any) -> Path:
        indices = list(range(100, 100 + self.count))
        dataset = {"name": "digits", "split": "test", "count": self.count, "indices": indices, "fingerprint": "f"}
        protocol = {"votes": votes, "seed": 7, "shard": self.shard, "gates": "mark"}
        dataset |= changes.pop("dataset", {})
        manifest = {
            "suite": "tiny",
            "title": "A tiny suite",
            "dataset": dataset,
            "protocol": protocol,
            "report": {"average": [], "worst": [], "reference": None, "vote": "mean", **(report or {})},
            "defenses": self.defenses,
            "attacks": self.attacks,
            "cells": self.cells,
            "harness": "0.1.0",
            "resolved": {
                "suite": "tiny",
                "dataset": {"name": dataset["name"], "split": dataset["split"]},
                "protocol": protocol,
                "defenses": {},
                "cells": {},
                **changes.pop("resolved", {}),
            },
        }
        Store(self.root).write_manifest({**manifest, **changes})
        return self.root


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "run")


@pytest.fixture
def rec() -> Callable[..., Record]:
    return record


@pytest.fixture
def column() -> Callable[..., list[Record]]:
    """Records of a deterministic defense from two strings with a letter per image."""

    def records(adv: str, clean: str | None = None) -> list[Record]:
        clean = clean or "r" * len(adv)
        return [record(i, clean[i], adv[i]) for i in range(len(adv))]

    return records
