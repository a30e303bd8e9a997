"""How long stored results take to be read: `harness run` on a finished directory, `harness report`, and its HTML page.

    python benchmarks/reading.py                  100,000 records in 3,130 shards, in two minutes
    python benchmarks/reading.py --cells 100      1,000,000 records in 31,300 shards, in a quarter of an hour

Records and images are made up, and written by the store's own writer: 10,000 images of 8x8 pixels per pairing in shards
of 32, half of the defenses with five votes. The first command finds every shard in files of its own, as after a run
that was killed at its very end, and merges them, as every run does at its end; the others find merged files.

Each command is a process of its own, whose CPU time and largest memory are told (Linux only).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from torch import Tensor

from harness.evaluation.pending import CellRun, load_images, pending_work
from harness.results.record import Record, verdict_of
from harness.results.store import ShardRange, Store
from harness.suite import load_suite

IMAGES, SHARD, VOTES, CLASSES = 10_000, 32, 5, 10
ATTACKS = 10
RUN, REPORT = ["run", "suite.yaml", "--out", "out", "--device", "cpu"], ["report", "out"]
COMMANDS = [RUN, REPORT, RUN, REPORT, [*REPORT, "--format", "html"]]
"""The first run finds the shards in files of their own, and merges them."""

PROBE = """
import re, resource, sys
from pathlib import Path
from harness import cli

try:
    cli.main(sys.argv[1:])
finally:
    use = resource.getrusage(resource.RUSAGE_SELF)
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(use.ru_utime + use.ru_stime, peak, file=sys.stderr)
"""
"""Linux: `ru_maxrss` would be that of the process that started this one, if it is larger."""

DEFENSES = """
import torch
from harness.defense import Defense


class Mean(Defense):
    def __init__(self, number: int) -> None:
        super().__init__()

    def classify(self, x):
        return x.flatten(1)[:, :10]


class Random(Mean):
    stochastic = True
"""


def write_suite(folder: Path, cells: int) -> Path:
    """A suite of so many pairings, of ten attacks each, beside its images and its defenses."""
    generator = np.random.default_rng(0)
    images = generator.random((IMAGES, 1, 8, 8), dtype=np.float32)
    np.savez(folder / "own.npz", images=images, labels=generator.integers(0, CLASSES, IMAGES), num_classes=CLASSES)
    (folder / "own.py").write_text(DEFENSES)
    defenses = [
        f"  d{number}: {{type: './own.py:{'Random' if number % 2 else 'Mean'}', number: {number}}}"
        for number in range(cells // ATTACKS)
    ]
    attacks = [f"  a{number}: {{type: noise, norm: Linf, eps: 0.{number + 1:02d}}}" for number in range(ATTACKS)]
    names = ", ".join(f"a{number}" for number in range(ATTACKS))
    suite = folder / "suite.yaml"
    suite.write_text(
        "suite: large\ndataset: {name: npz, path: own.npz}\n"
        f"protocol: {{votes: {VOTES}, shard: {SHARD}, gates: 'off'}}\n"
        "defenses:\n" + "\n".join(defenses) + "\nattacks:\n" + "\n".join(attacks) + "\n"
        f"report: {{average: [{names}], worst: [{names}]}}\n"
    )
    return suite


def fill(folder: Path, cells: int) -> Path:
    """A directory of results of which every shard is done. Returns the suite."""
    suite = write_suite(folder, cells)
    plan = load_suite(suite)
    images = load_images(plan)[1]
    generator = np.random.default_rng(1)
    with mock.patch("os.fsync"):  # nothing here has to survive a crash
        for cell_run in pending_work(plan, Store(folder / "out"), images, print):
            for bounds in cell_run.shards:
                records = made_up(cell_run, bounds, images.y, generator)
                cell_run.stored.write(*bounds, records, {"images": images.x[slice(*bounds)]})
    return suite


def made_up(cell_run: CellRun, bounds: ShardRange, labels: Tensor, generator: np.random.Generator) -> list[Record]:
    votes = VOTES if "Random" in cell_run.cell.defense.type else 1
    return [_record(place, int(labels[place]), votes, generator) for place in range(*bounds)]


def _record(place: int, label: int, votes: int, generator: np.random.Generator) -> Record:
    clean, adv = (np.where(generator.random(votes) < share, label, (label + 1) % CLASSES) for share in (0.9, 0.5))
    margins = generator.normal(size=2 * votes).astype(np.float32).tolist()
    return Record(
        index=place,
        label=label,
        verdict=verdict_of(adv.tolist(), label),
        clean_votes=clean.tolist(),
        adv_votes=adv.tolist(),
        clean_margins=margins[:votes],
        adv_margins=margins[votes:],
        linf=0.0,
        l2=0.0,
        l1=0.0,
        flow=None,
        violation=0.0,
        forwards=10,
        backwards=0,
        seconds=0.25,
        seed=place,
    )


def measured(folder: Path, command: list[str]) -> tuple[float, float]:
    """CPU seconds and largest memory in MB of a command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", PROBE, *command], cwd=folder, env=environment, capture_output=True)
    if done.returncode:
        sys.exit((done.stdout + done.stderr).decode())
    seconds, kilobytes = done.stderr.split()[-2:]
    return float(seconds), float(kilobytes) / 1024


def table(cells: int) -> None:
    """Prints what the commands take on so many pairings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, cells)
        print(f"{cells * IMAGES:,} records\n\n| command | files | CPU seconds | memory, MB |\n|---|---:|---:|---:|")
        for command in COMMANDS:
            files = len(list(folder.glob("out/cells/*/*/*.parquet")))
            seconds, memory = measured(folder, command)
            print(f"| `harness {' '.join(command)}` | {files:,} | {seconds:.1f} | {memory:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10, help="pairings of 10,000 images; a multiple of ten")
    table(parser.parse_args().cells)


if __name__ == "__main__":
    main()
