"""Workers and drivers killed, again and again, while several processes compute one suite; then finished, and compared.

    --workers 2      the driver, or one of its two worker processes
    --engine ray     the driver, or a process of a Ray cluster on this machine; only where Ray is installed
    --worker I/2     one of two processes that share a results directory

A killed driver is started again, with the same command; so is a worker that shares a directory. A round goes on until
every image has a verdict, and each kill in it is a trial. The attacks of the suite pause, so that most strikes meet one
at work; others meet a process that starts, or that has nothing to do.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.trial import Trial, contents
from harness.errors import UserError
from harness.evaluation.engines.ray import import_ray

KILLS = {"--workers 2": 20, "--engine ray": 20, "--worker I/2": 10}

SUITE = """suite: kills
dataset: {name: digits, first: 16}
protocol: {votes: 3, shard: 2, gates: 'off'}
defenses:
  plain: {type: undefended, weights: digits-cnn}
  noisy:
    type: "defenses.canaries.input_dropout:InputDropout"
    classifier: {type: undefended, weights: digits-cnn}
    rate: 0.1
attacks:
  paused: {type: "./paused.py:Paused", eps: 0.2, pause: 1.0}
  pgd: {type: pgd, norm: Linf, eps: 0.15, steps: 5}
"""

PAUSED = '''"""An attack with a pause in which its process can be killed."""

import time

from harness.attack import Attack, Cost
from harness.quantity import Quantity
from harness.randomness import fold, uniform
from harness.threat import Linf


class Paused(Attack):
    """Random images within the budget, once the time is over."""

    def __init__(self, eps: Quantity, pause: float) -> None:
        super().__init__()
        self.threat, self.pause = Linf(eps), pause

    def perturb(self, target, x, y):
        time.sleep(self.pause)
        noise = 2 * uniform(fold(target.seeds, 1), x.shape[1:]) - 1
        return self.threat.project(x, x + float(self.threat.eps) * noise)

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)
'''

CLUSTER = """
import sys
from harness.evaluation.engines.ray import import_ray

ray = import_ray()
ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""

TOKEN = {"RAY_AUTH_MODE": "token"}
"""A cluster that a program starts asks for one, which Ray shows it only if it is told to."""

AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")
"""Of a machine of the cluster, which it does not survive; here that would be all of the cluster."""

SOONEST, LATEST = 0.2, 6.0
"""Seconds between two kills, while processes are at work."""

LONGEST = 900.0
"""Seconds after which a round counts as hanging."""


@dataclass
class Round:
    """The processes of one round, and what was killed.

    Attributes:
        commands: of the processes that write results.
        cluster: the process above the workers, if it is not the driver.
    """

    folder: Path
    commands: list[list[str]]
    cluster: int | None = None
    killed: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    fault: str = ""

    def play(self, chance: random.Random, most: int) -> None:
        """Runs to the end, through at most so many kills."""
        limit = time.monotonic() + LONGEST
        drivers = [self._start(command) for command in self.commands]
        strike = time.monotonic() + chance.uniform(SOONEST, LATEST)
        while any(driver.poll() != 0 for driver in drivers):
            if time.monotonic() > limit:
                self.fault = "not finished in time"
                for driver in drivers:
                    driver.kill()
                return
            for place, driver in enumerate(drivers):
                if driver.poll() not in (None, 0):
                    drivers[place] = self._start(self.commands[place])
            if len(self.killed) < most and time.monotonic() >= strike:
                self._strike(drivers, chance)
                strike = time.monotonic() + chance.uniform(SOONEST, LATEST)
            time.sleep(0.02)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with open(self.folder / "printed", "ab") as sink:
            return subprocess.Popen(
                [sys.executable, "-m", "harness", "run", "suite.yaml", "--out", "cut", "--device", "cpu", *command],
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", **TOKEN},
                stdout=sink,
                stderr=sink,
            )

    def _strike(self, drivers: Sequence[subprocess.Popen[bytes]], chance: random.Random) -> None:
        """Kills a driver every third time, else a worker as soon as there is one; where drivers compute, a driver."""
        living = [driver for driver in drivers if driver.poll() is None]
        if not living:
            return
        workers = workers_of(self.cluster or living[0].pid)
        if len(drivers) > 1 or len(self.killed) % 3 == 2:
            chance.choice(living).kill()
            self.killed.append("a driver")
        elif workers:  # else the driver is still starting them
            os.kill(chance.choice(workers), signal.SIGKILL)
            self.killed.append("a worker")


def trials(folder: Path) -> Iterator[Trial]:
    (folder / "paused.py").write_text(PAUSED)
    (folder / "suite.yaml").write_text(SUITE)
    whole = Round(folder, [[]])
    whole.play(random.Random(0), 0)
    (folder / "cut").rename(folder / "whole")
    expected, chance = contents(folder / "whole"), random.Random(0)
    for kind, kills in KILLS.items():
        with _cluster(folder, kind) as (commands, cluster):
            done = 0
            while commands and done < kills:
                found = Round(folder, commands, cluster)
                found.play(chance, min(kills - done, 6))
                outcome, detail = _judged(folder, found, expected)
                for struck in found.killed:
                    yield Trial("workers", f"{kind}: {struck}", outcome, detail)
                done += len(found.killed)
                print(f"{kind}: {done} of {kills} kills", file=sys.stderr, flush=True)


@contextmanager
def _cluster(folder: Path, kind: str) -> Iterator[tuple[list[list[str]], int | None]]:
    """The commands of a round; none where Ray is not installed."""
    if kind != "--engine ray":
        yield ([["--workers", "2"]] if kind == "--workers 2" else [["--worker", "1/2"], ["--worker", "2/2"]]), None
        return
    try:
        import_ray()
    except UserError as error:
        print(f"Without Ray: {error}", file=sys.stderr)
        yield [], None
        return
    command, environment = [sys.executable, "-c", CLUSTER], {**os.environ, "OMP_NUM_THREADS": "1", **TOKEN}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin and process.stdout
        address = process.stdout.readline().strip()
        yield [["--engine", "ray", "--address", address]], process.pid
        process.stdin.close()


def _judged(folder: Path, found: Round, expected: dict[str, object]) -> tuple[str, str]:  # type: ignore[return]
    printed = (folder / "printed").read_bytes().decode(errors="replace")
    got = contents(folder / "cut")
    for name in ("printed", "cut"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if found.fault or "Traceback" in printed:
        return "wrong", found.fault or printed.strip().splitlines()[-1]
    lost = len(expected.keys() - got.keys())
    return ("right", "") if got == expected else ("wrong", f"{lost} files lost, or other records")


def workers_of(process: int) -> list[int]:
    """The processes below one in which a defense is evaluated."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(path.name))
    below, found = [process], list[int]()
    while below:
        children = parents.get(below.pop(), [])
        below += children
        found += [child for child in children if _computes(child)]
    return found


def _computes(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    task = words.startswith(b"ray::") and not words.startswith(AGENTS)
    return task or b"harness.evaluation.engines.worker_main" in words
