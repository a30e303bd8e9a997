"""What several workers gain, whether they change anything, and what many records cost.

    python benchmarks/engine.py                          all parts, in about half an hour on 2 cores
    python benchmarks/engine.py --parts workers          two workers beside one process, and two workers of Ray
    python benchmarks/engine.py --parts engines          what each engine makes of the same suite, compared bit for bit
    python benchmarks/engine.py --parts shards           a cheap network in shards of 32 and of 256 images
    python benchmarks/engine.py --parts reading --cells 100      1,000,000 records: half an hour by itself
    python benchmarks/engine.py --parts estimates        whether the time left that a run shows turns out right

The machine should have nothing else to do, and two cores or more. Every process has one thread. Each ratio is of two
runs that follow each other, given as the median of the pairs with their range. Ray is left out, visibly, where it is
not installed.

`workers`: a diffusion classifier on digits, attacked by PGD: `harness run` as a user calls it, start of all processes
included. `engines`: five pairings, stochastic ones and one that takes images from another among them; what one engine
began is stopped half-way and finished by another. `shards`: the digits' CNN under APGD, CPU seconds of the whole run in
this process. `reading`, `estimates`: see the scripts of these names.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import estimates
import reading
import torch

from harness.callback import Callback
from harness.errors import UserError
from harness.evaluation.engines.engine import Engine
from harness.evaluation.engines.processes import Processes
from harness.evaluation.engines.ray import Ray, import_ray
from harness.evaluation.pending import CellRun, load_images, pending_work
from harness.evaluation.run import run
from harness.results.record import Record
from harness.results.store import Store
from harness.suite import load_suite

PARTS = ("workers", "engines", "shards", "reading", "estimates")

LONG = """\
suite: long
dataset: {{name: digits, first: {images}}}
protocol: {{votes: 5, shard: 4, gates: 'off'}}
defenses:
  dc: {{type: dc, weights: digits-ncsnpp, timesteps: 10, share_noise: classes}}
attacks:
  linf: {{type: pgd, norm: Linf, eps: 0.2, steps: 40, restarts: 2}}
"""

MIXED = """\
suite: mixed
dataset: {{name: digits, first: {images}}}
protocol: {{votes: 3, shard: 4, gates: 'off'}}
defenses:
  cnn: {{type: undefended, weights: digits-cnn}}
  dc: {{type: dc, weights: digits-ncsnpp, timesteps: 4}}
  rdc: {{type: rdc, weights: digits-ncsnpp, timesteps: 4, steps: 2, eta: 0.2}}
attacks:
  linf: {{type: pgd, norm: Linf, eps: 0.2, steps: 10}}
  auto: {{type: autoattack, norm: Linf, eps: 0.1}}
  carried: {{type: transfer, norm: Linf, eps: 0.2, from: dc, attack: linf}}
pairings:
  - {{defense: [cnn, dc, rdc], attack: linf}}
  - {{defense: cnn, attack: [auto, carried]}}
"""

CHEAP = """\
suite: cheap
dataset: {{name: digits, first: {images}}}
protocol: {{shard: {shard}, gates: 'off'}}
defenses:
  cnn: {{type: undefended, weights: digits-cnn}}
attacks:
  linf: {{type: apgd, norm: Linf, eps: 0.1, steps: 100}}
"""

CLUSTER: dict[str, Any] = {
    "address": "local",
    "num_cpus": 2,
    "num_gpus": 0,
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "ERROR",
}
"""Ray on two cores of this machine, however many there are."""

COMMAND = f"""
import sys
from harness import cli

if sys.argv[1] == "ray":
    from harness.evaluation.engines.ray import import_ray
    import_ray().init(**{CLUSTER!r})
cli.main(sys.argv[2:])
"""
"""The command line, for Ray on that cluster."""

CPU = torch.device("cpu")


def has_ray() -> bool:
    try:
        import_ray()
    except UserError as error:
        print(f"Without Ray: {error}\n")
        return False
    return True


@contextmanager
def two_ray_workers() -> Iterator[Engine]:
    """An engine on a cluster of two cores, which ends with the block."""
    ray = import_ray()
    ray.init(**CLUSTER)
    try:
        yield Ray(device="cpu")
    finally:
        ray.shutdown()


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}), n = {len(values)}"


# --- two workers beside one process


def workers(folder: Path, images: int, repeats: int) -> None:
    suite = folder / "long.yaml"
    suite.write_text(LONG.format(images=images))
    kinds = ["one", "two", *(["ray"] if has_ray() else [])]
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(repeats):
        for kind in kinds:
            spent[kind].append(_wall(suite, folder / f"{kind}-{number}", kind))
    print(f"A suite of {statistics.median(spent['one']):.0f} s in one process with one thread, seconds on the clock:\n")
    print("| engine | seconds | one process / two workers |\n|---|---:|---:|")
    titles = {"one": "`local`", "two": "`local --workers 2`", "ray": "`--engine ray`, two cores"}
    for kind in kinds:
        ratios = [one / two for one, two in zip(spent["one"], spent[kind], strict=True)]
        print(f"| {titles[kind]} | {spread(spent[kind])} | {spread(ratios) if kind != 'one' else ''} |")


def _wall(suite: Path, out: Path, kind: str) -> float:
    """Seconds of a whole run in a process of its own. kind: "one", "two" workers, or "ray" with two."""
    options = {"one": [], "two": ["--workers", "2"], "ray": ["--engine", "ray"]}[kind]
    command = ["run", str(suite), "--out", str(out), "--device", "cpu", *options]
    threads = "2" if kind == "two" else "1"  # which are divided among the workers
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, kind, *command],
        env={**os.environ, "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - began


# --- the same records and images


class Stop(Callback):
    """Interrupts a run when half of its images are stored."""

    def __init__(self, images: int) -> None:
        self._left = images / 2

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        self._left -= len(records)
        if self._left <= 0:
            raise KeyboardInterrupt


def engines(folder: Path, images: int) -> None:
    suite = folder / "mixed.yaml"
    suite.write_text(MIXED.format(images=images))
    pairings = len(load_suite(suite).cells)

    def made(name: str, *stages: Engine | None) -> list[Any]:
        for place, engine in enumerate(stages):
            callback = Stop(images * pairings) if place < len(stages) - 1 else Callback()
            try:
                run(load_suite(suite), folder / name, CPU, callback, engine=engine)
            except KeyboardInterrupt:
                print(f"(stopped half-way: {name})", file=sys.stderr)
        return contents(suite, folder / name)

    alone, two = made("local", None), Processes(["cpu", "cpu"], threads=1)
    found = {
        "`local --workers 2`": made("two", two),
        "`local`, stopped, finished with `--workers 2`": made("local-two", None, two),
        "`--workers 2`, stopped, finished by `local`": made("two-local", two, None),
    }
    if has_ray():
        with two_ray_workers() as ray:
            found |= {
                "`--engine ray`": made("ray", ray),
                "`local`, stopped, finished by `ray`": made("local-ray", None, ray),
                "`ray`, stopped, finished with `--workers 2`": made("ray-two", ray, two),
            }
    print("Compared with `local`, bit for bit, all but the seconds:\n")
    print("| engine | records and images | differences |\n|---|---:|---:|")
    for title, values in found.items():
        print(f"| {title} | {len(values):,} | {differences(alone, values)} |")


def differences(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many images of two `contents` differ, those that one of them lacks included."""
    return sum(mine != theirs for mine, theirs in itertools.zip_longest(one, other))


def contents(suite: Path, out: Path) -> list[Any]:
    """Of each image of each pairing the record without its seconds, and the bytes of its tensors."""
    plan, found = load_suite(suite), list[Any]()
    for cell_run in pending_work(plan, Store(out), load_images(plan)[1], print, retry_errors=False):
        for bounds in cell_run.shards:
            records, tensors = cell_run.stored.read(*bounds), cell_run.stored.images(*bounds)
            for row, record in enumerate(records or ()):
                parts = {name: tensor[row].numpy().tobytes() for name, tensor in tensors.items()}
                found.append((cell_run.name, asdict(record) | {"seconds": 0}, parts))
    return found


# --- a cheap network in small and in large shards


def shards(folder: Path, images: int, repeats: int) -> None:
    sizes = (32, 256)
    suites = {size: folder / f"cheap-{size}.yaml" for size in sizes}
    spent: dict[int, list[float]] = {size: [] for size in sizes}
    for size, suite in suites.items():
        suite.write_text(CHEAP.format(images=images, shard=size))
    for number in range(-1, repeats):  # the first pair is a warm-up
        for size, suite in suites.items():
            began = time.process_time()
            run(load_suite(suite), folder / f"cheap-{size}-{number}", CPU)
            if number >= 0:
                spent[size].append(time.process_time() - began)
    ratios = [small / large for small, large in zip(spent[32], spent[256], strict=True)]
    print(f"A CNN under APGD of 100 steps, {images} images, CPU seconds of a run:\n")
    print("| shard 32 | shard 256 | 32 / 256 |\n|---:|---:|---:|")
    print(f"| {spread(spent[32])} | {spread(spent[256])} | {spread(ratios)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs for each ratio")
    parser.add_argument("--long", type=int, default=96, help="images of the part `workers`")
    parser.add_argument("--mixed", type=int, default=16, help="images of the part `engines`")
    parser.add_argument("--cheap", type=int, default=500, help="images of the part `shards`")
    parser.add_argument("--cells", type=int, default=10, help="pairings of 10,000 images to be read; a multiple of ten")
    parser.add_argument("--estimates", type=int, default=48, help="images of the part `estimates`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[Path], None]] = {
        "workers": lambda folder: workers(folder, options.long, options.repeats),
        "engines": lambda folder: engines(folder, options.mixed),
        "shards": lambda folder: shards(folder, options.cheap, options.repeats),
        "reading": lambda folder: reading.table(options.cells),
        "estimates": lambda folder: estimates.table(options.estimates, workers=None),
    }
    for part in options.parts:
        with tempfile.TemporaryDirectory() as name:
            print(f"### {part}\n", flush=True)
            parts[part](Path(name))
            print(flush=True)


if __name__ == "__main__":
    main()
