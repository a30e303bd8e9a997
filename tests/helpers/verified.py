"""Finished runs of small suites, forged as whoever can compute hashes would, and what `harness verify` says."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness import cli, datasets
from harness.evaluation.run import run
from harness.results.manifest import Manifest
from harness.results.record import Record
from harness.results.store import Store
from harness.suite import load_suite
from harness.verification import CellReport, verify

CPU = torch.device("cpu")
_RUNS = tempfile.TemporaryDirectory(prefix="harness-test-")
Tensors = dict[str, Tensor]
Forge = Callable[[list[Record], Tensors], list[Record]]

FLOWS = """
suite: flows
dataset: {name: digits, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: "./fakes.py:NearestMean"}
attacks:
  stadv: {bound: 0.1, steps: 2}
"""

COUNTED = """
suite: counted
dataset: {name: digits, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: "./fakes.py:NearestMean"}
attacks:
  sparse: {type: sigma_zero, eps: 20, steps: 20}
"""

FILES = """
suite: files
dataset: {name: npz, path: own.npz, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: undefended, weights: ./own.safetensors}
attacks:
  weak: {type: "./fakes.py:Noise", eps: 1/16}
"""

NESTED = """
suite: nested
dataset: {name: digits, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: "./fakes.py:NearestMean", strength: 1}
attacks:
  worst: {type: worst_of, norm: Linf, eps: 0.1, attacks: [{type: pgd, steps: 1}, {type: noise}]}
"""

CARRIED = """
suite: carried
dataset: {name: digits, first: 4}
protocol: {votes: 2, shard: 4}
defenses:
  noisy: {type: "./fakes.py:Noisy"}
  plain: {type: "./fakes.py:NearestMean"}
attacks:
  carried: {type: transfer, norm: Linf, eps: 0.9, from: plain, attack: own}
  own: {type: "./fakes.py:Noise", eps: 0.9}
pairings:
  - {defense: noisy, attack: carried}
  - {defense: plain, attack: own}
"""


def finish(suite: Path, text: str | None = None) -> Path:
    """A finished run beside its suite. Of the same files it is made once, and then copied."""
    if text is not None:
        suite.write_text(text)
    out, made = suite.parent / "out", hashlib.sha256()
    if out.exists():
        run(load_suite(suite), out, CPU)
        return out
    for path in sorted(path for path in suite.parent.iterdir() if path.is_file()):
        made.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    kept = Path(_RUNS.name, made.hexdigest())
    if not kept.exists():
        run(load_suite(suite), kept, CPU)
    shutil.copytree(kept, out)
    return out


def reports(out: Path, **options: Any) -> dict[str, CellReport]:
    """Of the pairings."""
    found = examined(out, **options)
    del found["run.json"]
    return found


def examined(out: Path, **options: Any) -> dict[str, CellReport]:
    return {r.name: r for r in verify(out, CPU, **{"suite": out.parent / "small.yaml", "trust": True, **options})}


def forge(out: Path, change: Forge, cell: str = "plain/weak", bounds: tuple[int, int] = (0, 4)) -> None:
    """Rewrites a shard as whoever can compute hashes would."""
    facts = next(c for c in manifest(out)["cells"] if f"{c['defense']}/{c['attack']}" == cell)
    stored = Store(out).cell(facts["defense"], facts["attack"], facts["key"])
    tensors = stored.images(*bounds)
    records = change(stored.read(*bounds) or [], tensors)
    stored.write(*bounds, records, tensors)
    edit_manifest(out, lambda m: relist(out, m), sealed=True)


def relist(out: Path, content: dict[str, Any]) -> None:
    for cell in content["cells"]:
        stored = Store(out).cell(cell["defense"], cell["attack"], cell["key"])
        starts = range(0, cell["count"], cell["shard"])
        cell["records"] = [stored.digest(at, min(at + cell["shard"], cell["count"])) for at in starts]


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def edit_manifest(out: Path, change: Callable[[dict[str, Any]], object], sealed: bool = False) -> None:
    """sealed: as whoever can compute hashes would."""
    content = manifest(out)
    change(content)
    if sealed:
        content["seal"] = Manifest.model_validate(content).hash()
    (out / "run.json").write_text(json.dumps(content))


def own_files(folder: Path, weights: str = "digits-cnn") -> None:
    """A dataset and a checkpoint of the user's, for the suite FILES."""
    data = datasets.load("digits")
    np.savez(folder / "own.npz", images=data.images[:6].numpy(), labels=data.labels[:6].numpy(), classes=data.classes)
    for suffix in ("safetensors", "yaml"):
        shutil.copy(str(resources.files("defenses") / f"zoo/{weights}.{suffix}"), folder / f"own.{suffix}")


def pushed(records: list[Record], tensors: Tensors) -> list[Record]:
    value = tensors["images"][1, 0, 3, 3].item()
    tensors["images"][1, 0, 3, 3] = value + (0.5 if value < 0.5 else -0.5)
    return records


def in_cell(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["cells"][0].update(changes)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", *arguments, "--device", "cpu"])
    return int(ended.value.code or 0)
