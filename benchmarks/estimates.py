"""Whether the time left that `harness run` shows turns out right.

    python benchmarks/estimates.py                 in this process, about a minute
    python benchmarks/estimates.py --workers 2     in two workers

Three defenses on digits (a CNN, a diffusion classifier, and one that maximises likelihood first) under a short attack
and a long one, so that a pairing takes from a few seconds to half of the run. What the display of the command line
would show is read off every quarter of a second, and compared with what was really left. At so many percent of the run:

    estimate / truth   the last estimate before
    worst after        the largest factor between estimate and truth, either way, from there to 99% of the run
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from harness.cli.run_progress import Display
from harness.evaluation.engines.processes import Processes
from harness.evaluation.pending import CellRun
from harness.evaluation.run import run
from harness.suite import load_suite

SUITE = """\
suite: estimates
dataset: {{name: digits, first: {images}}}
protocol: {{votes: 3, shard: 8, gates: 'off'}}
defenses:
  cnn: {{type: undefended, weights: digits-cnn}}
  dc: {{type: dc, weights: digits-ncsnpp, timesteps: 4}}
  rdc: {{type: rdc, weights: digits-ncsnpp, timesteps: 4, steps: 2, eta: 0.2}}
attacks:
  short: {{type: pgd, norm: Linf, eps: 0.2, steps: 10}}
  long: {{type: apgd, norm: Linf, eps: 0.1, steps: 40, restarts: 2}}
"""

PERIOD, LAST = 0.25, 0.99
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75)


class Watched(Display):
    """The display of the command line, whose estimates are noted down.

    Attributes:
        samples: time since the attacks began, and seconds that are said to be left.
    """

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.samples: list[tuple[float, float | None]] = []
        self.seconds = 0.0

    @contextmanager
    def running(self, runs: Sequence[CellRun]) -> Iterator[None]:
        began, over = time.monotonic(), threading.Event()

        def sample() -> None:
            while not over.wait(PERIOD):
                self._look()
                self.samples.append((time.monotonic() - began, self._outlook.left() if self._outlook else None))

        with super().running(runs):
            thread = threading.Thread(target=sample, daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                self.seconds = time.monotonic() - began


def factors(samples: Sequence[tuple[float, float | None]], seconds: float, share: float) -> tuple[float, float]:
    """Of a run of some seconds: the last estimate / truth before a share of it, and the largest factor from there on.

    Example:
        >>> factors([(1, 9.0), (5, 10.0), (8, 1.0), (9.95, 9.0)], seconds=10, share=0.5)
        (2.0, 2.0)
    """
    known = [(at, left / (seconds - at)) for at, left in samples if left and at < LAST * seconds]
    before = [ratio for at, ratio in known if at <= share * seconds]
    after = [max(ratio, 1 / ratio) for at, ratio in known if at >= share * seconds]
    return (before[-1] if before else float("nan")), max(after, default=float("nan"))


def table(images: int, workers: int | None) -> None:
    """Prints what the estimates of a run came to."""
    with tempfile.TemporaryDirectory() as name:
        suite, display = Path(name) / "suite.yaml", Watched()
        suite.write_text(SUITE.format(images=images))
        engine = Processes(["cpu"] * workers, threads=1) if workers else None
        run(load_suite(suite), Path(name) / "out", torch.device("cpu"), display, engine=engine)
    where = f"{workers} workers" if workers else "one process"
    print(f"A run of {display.seconds:.0f} s in {where}, {len(display.samples)} estimates:\n")
    print("| of the run, % | estimate / truth | worst after |\n|---:|---:|---:|")
    for share in SHARES:
        ratio, worst = factors(display.samples, display.seconds, share)
        print(f"| {100 * share:.0f} | {ratio:.2f} | {worst:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--workers", type=int, help="compute in so many processes; by default in this one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table(options.images, options.workers)


if __name__ == "__main__":
    main()
