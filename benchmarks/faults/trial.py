"""What a trial comes to, and the small run that most of them begin with."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import safetensors.numpy

from helpers.forked import Attempt, run

Outcome = Literal["right", "said", "unseen", "wrong"]
"""right: the numbers are those of an undisturbed run. said: refused, shown as failed, marked, or contradicted by
`harness verify`. unseen: changed by somebody who made every hash anew, which no check of these files can tell.
wrong: a wrong number shown as right, a traceback, or a limit of time or memory exceeded."""

SLOWEST, LARGEST = 10.0, 256.0
"""Seconds, and MiB beyond the start, that a command may take on hostile input."""

SUITE = """suite: faults
dataset: {name: digits, first: 12}
protocol: {votes: 3, seed: 0, shard: 4}
defenses:
  plain: {type: undefended, weights: digits-cnn}
  noisy:
    type: "defenses.canaries.input_dropout:InputDropout"
    classifier: {type: undefended, weights: digits-cnn}
    rate: 0.1
attacks:
  pgd: {type: pgd, norm: Linf, eps: 0.15, steps: 5, loss: margin}
  stadv: {type: stadv, bound: 0.2, steps: 3}
report: {average: [pgd, stadv]}
"""


@dataclass(frozen=True)
class Trial:
    """One fault. detail: what was seen, in a line, for the log."""

    family: str
    fault: str
    outcome: Outcome
    detail: str = ""


def prepare(folder: Path) -> Path:
    """A finished run of the small suite at FOLDER/out; returns FOLDER/out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(SUITE)
    finish(folder, "out")
    return folder / "out"


def finish(folder: Path, out: str) -> Attempt:
    """Runs the suite to its end, which must succeed.

    Raises:
        RuntimeError: it did not.
    """
    done = run(["run", "suite.yaml", "--out", out, "--device", "cpu"], folder)
    if done.status != 0:
        raise RuntimeError(f"the undisturbed run ended with status {done.status}:\n{done.out}")
    return done


def contents(out: Path) -> dict[str, object]:
    """All records (without the time they took) and images of a run, by path."""
    found: dict[str, object] = {}
    for path in sorted(out.glob("cells/*/*/*.parquet")):
        rows = pq.ParquetFile(path).read().to_pylist()
        found[str(path.relative_to(out))] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    for path in sorted(out.glob("cells/*/*/*.safetensors")):
        tensors = safetensors.numpy.load_file(path)
        found[str(path.relative_to(out))] = {name: (t.shape, t.tobytes()) for name, t in tensors.items()}
    return found


@dataclass(frozen=True)
class Number:
    """A place of the table, as the CSV has it."""

    status: str
    accuracy: float | None
    flags: str
    errors: int


def numbers(folder: Path, out: str) -> dict[tuple[str, str], Number] | Attempt:
    """The headline numbers of a run by defense and attack, or the attempt that did not give any."""
    done = run(["report", out, "--format", "csv"], folder)
    if done.status != 0 or done.traceback:
        return done
    rows = [row for row in csv.DictReader(io.StringIO(done.out)) if row.get("headline") == "True"]
    return {
        (row["defense"], row["attack"] if row["kind"] == "attack" else row["kind"]): Number(
            row["status"],
            float(row["accuracy"]) if row["accuracy"] else None,
            row["flags"],
            int(row["errors"] or 0),
        )
        for row in rows
    }


def manifest(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "run.json").read_text())
    return found


def bounded(done: Attempt) -> str | None:
    """What of the property "an error or an answer, in time and in memory" a command broke, or None."""
    if done.traceback:
        return f"traceback: {done.out.strip().splitlines()[-1][:200]}"
    if done.status is None or done.seconds > SLOWEST:
        return f"{done.seconds:.0f} s"
    if done.status >= 64:
        return f"ended with status {done.status}: {done.out.strip()[-200:]}"
    if done.grown > LARGEST:
        return f"{done.grown:.0f} MiB"
    return None
