"""Runs of a small suite on an engine, and what came of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.callback import Callback
from harness.evaluation.engines.engine import Engine
from harness.evaluation.pending import CellRun, load_images, pending_work
from harness.evaluation.run import Finished, run
from harness.results.record import Record
from harness.results.store import Store
from harness.suite import load_suite
from helpers.modules import source

CPU = torch.device("cpu")


class Notes(Callback):
    """Keeps what it is told, and interrupts the run after some shards.

    Args:
        shards: after how many, if at all.
    """

    def __init__(self, shards: int | None = None) -> None:
        self.notes: list[str] = []
        self.order: list[str] = []
        self._shards = shards

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        self.order.append(run.name)
        if len(self.order) == self._shards:
            raise KeyboardInterrupt


@contextmanager
def one_thread() -> Iterator[None]:
    """Float results depend on how many threads add them up, so what is compared to the bit has the same number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def finish(suite: Path, out: Path, engine: Engine | None = None, callback: Callback | None = None) -> Finished:
    """Runs a suite with one thread in each process."""
    with one_thread():
        return run(load_suite(suite), out, CPU, callback or Callback(), engine=engine)


def contents(suite: Path, out: Path) -> dict[str, list[Any]]:
    """By pairing: every record without its seconds, and the bytes of every tensor."""
    plan = load_suite(suite)
    found = {}
    for cell_run in pending_work(plan, Store(out), load_images(plan)[1], lambda note: None, retry_errors=False):
        assert not cell_run.missing, f"{cell_run.name} is not finished"
        tensors = [cell_run.stored.images(*bounds) for bounds in cell_run.shards]
        raw = [{name: tensor.numpy().tobytes() for name, tensor in found.items()} for found in tensors]
        found[cell_run.name] = [[asdict(record) | {"seconds": 0} for record in cell_run.records], raw]
    return found


def alone(suite: Path, pairing: str, out: Path) -> list[Any]:
    """The records of one pairing without their seconds, made in this process."""
    plan = load_suite(suite, only=pairing)
    with one_thread():
        run(plan, out, CPU)
    (cell_run,) = pending_work(plan, Store(out), load_images(plan)[1], lambda note: None)
    return [asdict(record) | {"seconds": 0} for record in cell_run.records]


FAULTS = """\
suite: faults
dataset: {{name: digits, first: {first}}}
protocol: {{shard: 2, gates: off}}
defenses:
  plain: {{type: "./fakes.py:NearestMean"}}
attacks:
"""

ATTACKS = {
    "killed": 'type: "./perilous.py:Killed"',
    "once": 'type: "./perilous.py:KilledOnce", eps: 0.9',
    "sound": 'type: "./perilous.py:Marked", eps: 0.9, pause: {pause}',
    "hung": 'type: "./perilous.py:Hung", eps: 0.9',
}


def handed_over(suite: Path, out: Path, engine: Engine) -> dict[str, list[Any]]:
    """What a run of 15 shards holds that was begun in this process, continued by an engine, and finished here again."""
    for interrupted in (None, engine):
        with pytest.raises(KeyboardInterrupt):
            finish(suite, out, interrupted, Notes(shards=5))
    assert finish(suite, out).computed == 5
    return contents(suite, out)


def perilous(
    folder: Path, first: int = 6, pause: float = 0, attacks: Sequence[str] = ("killed", "once", "sound")
) -> Path:
    """A suite whose attacks end their processes, in a folder. "hung" hangs on the sixth image."""
    for name in ("fakes", "perilous"):
        (folder / f"{name}.py").write_text(source(name))
    chosen = [f"  {name}: {{{ATTACKS[name].format(pause=pause)}}}\n" for name in attacks]
    (folder / "suite.yaml").write_text(FAULTS.format(first=first) + "".join(chosen))
    return folder / "suite.yaml"


def ended(processes: Sequence[int], seconds: float = 20) -> bool:
    """Whether these processes end within some time."""
    limit = time.monotonic() + seconds
    while any(lives(process) for process in processes):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def lives(process: int) -> bool:
    """Whether a process exists and is no zombie, which only waits for its parent to take notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def noted_processes(folder: Path, count: int, seconds: float = 300) -> list[int]:
    """Waits until so many processes have noted themselves down in a folder (see `modules/perilous.py`)."""
    limit = time.monotonic() + seconds
    while not folder.exists() or len(os.listdir(folder)) < count:
        assert time.monotonic() < limit, "the processes have not started"
        time.sleep(0.05)
    return [int(name) for name in os.listdir(folder)]
