"""The time that the harness adds to a query: counts, seeds, the fence around global generators, and checks.

    python benchmarks/query.py

A linear classifier of 48 numbers is asked about four images, directly and through `Target`, in turn, on one thread. The
median of the differences, in milliseconds, is given with the quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from harness.defense import Defense
from harness.randomness import normal, uniform
from harness.target import Target

PAIRS = 5000
SHAPE = (3, 4, 4)


class Linear(Defense):
    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", normal(torch.arange(2), (48,)))

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def quartiles(theirs: Callable[[], object], ours: Callable[[], object]) -> str:
    for call in (theirs, ours):
        call()
    low, middle, high = statistics.quantiles([seconds(ours) - seconds(theirs) for _ in range(PAIRS)], n=4)
    return f"{1e3 * middle:.3f} ({1e3 * low:.3f} to {1e3 * high:.3f})"


def main() -> None:
    torch.set_num_threads(1)
    defense, rows = Linear(), torch.arange(4)
    x = uniform(rows, SHAPE)
    target, leaf = Target(defense, x, rows), x.clone().requires_grad_()
    with torch.no_grad():
        forward = quartiles(lambda: defense.classify(x), lambda: target.sample(x, rows, draws=1))
    both = quartiles(
        lambda: torch.autograd.grad(defense.classify(leaf).sum(), leaf),
        lambda: torch.autograd.grad(target.sample(leaf, rows, draws=1)[0].sum(), leaf),
    )
    print(f"milliseconds, {PAIRS:,} pairs\n\n| query | added |\n|---|---:|")
    print(f"| forward | {forward} |\n| forward and backward | {both} |")


if __name__ == "__main__":
    main()
