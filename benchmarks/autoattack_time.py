"""The time of AutoAttack over that of the package it comes from, with the verdicts of both.

    python benchmarks/autoattack_time.py WEIGHTS GOLDEN [--only PATTERN] [--repeats N]         prints a Markdown table

The arguments, the network and the records are those of `peers.py`. The package attacks the bare network; ours attacks
it as the harness does, with counts and checks of every query. Both run in turn in one process on one thread, from the
record's seed and in its batches. Times are CPU times, so that other programs on the machine matter less; a ratio is
that of two runs in a row, and the table shows the median and the range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import peers
import pyautoattack
import torch
from torch import Tensor

from harness.quantity import Quantity
from harness.target import Target

COLUMNS = ("record", "repeats", "ours, s", "package, s", "ours / package", "same verdict as the package", "as recorded")


def ours(defense: peers.ResNet, params: dict[str, Any], x: Tensor, y: Tensor) -> Tensor:
    attack = peers.autoattack(params)
    found = attack.perturb(Target(defense, x, torch.arange(len(x))), x, y)
    return peers.Adversarial.of(found).images


def package(defense: peers.ResNet, params: dict[str, Any], x: Tensor, y: Tensor) -> Tensor:
    names, eps = params.get("attacks"), float(Quantity(params["eps"]))
    stock = pyautoattack.AutoAttack(defense, norm=params["norm"], eps=eps, seed=params.get("seed", 0))
    if names:
        stock.attacks_to_run = [names] if isinstance(names, str) else names
    images: Tensor = stock.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return images


Attacked = Callable[[peers.ResNet, dict[str, Any], Tensor, Tensor], Tensor]


def timed(
    attack: Attacked, defense: peers.ResNet, record: dict[str, Any], x: Tensor, y: Tensor
) -> tuple[Tensor, float]:
    """Verdicts (N,) bool, and seconds."""
    batch, robust, seconds = record.get("bs", len(x)), [], 0.0
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        began = time.process_time()
        attacked = attack(defense, record["params"], images, labels)
        seconds += time.process_time() - began
        robust.append(peers.correct(defense, images, labels) & peers.correct(defense, attacked, labels))
    return torch.cat(robust), seconds


def line(defense: peers.ResNet, record: dict[str, Any], x: Tensor, y: Tensor, repeats: int) -> str:
    mine, theirs = [], []
    for _ in range(repeats):
        (robust, seconds), (stock, long) = (timed(attack, defense, record, x, y) for attack in (ours, package))
        mine.append(seconds)
        theirs.append(long)
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    recorded = torch.tensor(record["robust"], dtype=torch.bool)
    middle = [f"{statistics.median(values):.1f}" for values in (mine, theirs)]
    ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    same = [f"{int((robust == other).sum())}/{len(x)}" for other in (stock, recorded)]
    return " | ".join(["", record["id"], str(repeats), *middle, ratio, *same, ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*Linf_1_standard_n64")
    parser.add_argument("--repeats", type=int, default=3)
    options = peers.parsed(parser)
    if options is None:
        return
    torch.set_num_threads(1)
    defense, (records, x, y) = peers.load(options.weights), peers.read(options.golden)
    print(" | ".join(["", *COLUMNS, ""]).strip())
    print("|---|" + "---:|" * (len(COLUMNS) - 1))
    for record in records:
        chosen = record["job"] == "aa" and fnmatch(record["id"], options.only)
        if chosen and record["params"]["model"] == defense.name:
            print(line(defense, record, x[: record["n"]], y[: record["n"]], options.repeats), flush=True)


if __name__ == "__main__":
    main()
