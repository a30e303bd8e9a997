"""Runs killed at any moment, by any signal, some of them again and again; then finished, and compared."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.trial import Trial, contents, finish, prepare
from helpers.forked import run

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KILLS = 56
IN_START = 16
"""Of real processes, struck while Python and torch are still being imported."""
COMMAND = ["run", "suite.yaml", "--out", "cut", "--device", "cpu"]


def trials(folder: Path) -> Iterator[Trial]:
    whole = contents(prepare(folder))
    began = time.perf_counter()
    finish(folder, "timed")
    length = time.perf_counter() - began
    chance = random.Random(0)
    for number in range(KILLS):
        sort = SIGNALS[number % len(SIGNALS)]
        if number % 3 == 0:  # two of three go on with what the kill before them left
            shutil.rmtree(folder / "cut", ignore_errors=True)
        struck = run(COMMAND, folder, kill=(chance.uniform(0, length), sort))
        yield _judged(folder, f"{sort.name} in a run", struck.out, whole)
    for number in range(IN_START):
        sort = SIGNALS[number % len(SIGNALS)]
        shutil.rmtree(folder / "cut", ignore_errors=True)
        yield _judged(folder, f"{sort.name} at the start of a process", _start(folder, sort, chance), whole)


def _start(folder: Path, sort: signal.Signals, chance: random.Random) -> str:
    command = [sys.executable, "-m", "harness", *COMMAND]
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(chance.uniform(0.15, 3.0))
    child.send_signal(sort)
    return child.communicate()[0]


def _judged(folder: Path, fault: str, printed: str, whole: dict[str, object]) -> Trial:
    if "Traceback" in printed:
        return Trial("kills", fault, "wrong", printed.strip().splitlines()[-1])
    again = folder / "again"
    shutil.rmtree(again, ignore_errors=True)
    if (folder / "cut").exists():
        shutil.copytree(folder / "cut", again)
    finish(folder, "again")
    same = contents(again) == whole
    return Trial("kills", fault, "right" if same else "wrong", "" if same else "other records than an undisturbed run")
