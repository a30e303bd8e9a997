"""The verdicts of a run's AutoAttack beside those of the stock package on the same images, image by image.

    harness run suites/mnist_cnn_a.yaml
    python benchmarks/stock_autoattack.py suites/mnist_cnn_a.yaml results/mnist_cnn_a

The package attacks all images of a pairing in one batch, with a seed of its own: its random starts and its squares are
others. It takes as long as the run, with one thread a quarter of an hour for 200 images of MNIST.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyautoattack
import torch

import harness
from harness.evaluation.pending import load_images
from harness.suite.plan import Cell, load_suite


def robust(cell: Cell, x: torch.Tensor, y: torch.Tensor, seed: int) -> torch.Tensor:
    """Which images the package leaves classified correctly, (N,) bool."""
    defense, given = cell.defense.build().eval().requires_grad_(False), cell.attack.arguments
    attack = pyautoattack.AutoAttack(defense, norm=given["norm"], eps=float(given["eps"]), seed=seed)
    images = attack.run_standard_evaluation(x, y, batch_size=len(x))[0]
    with torch.no_grad():
        return defense(images).argmax(1) == y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, nargs="?")
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=0, help="of the package")
    options = parser.parse_args()
    if options.results is None:
        print("Not run: it needs SUITE and RESULTS, a finished run; see benchmarks/stock_autoattack.py.")
        return
    plan, frame = load_suite(options.suite), harness.load_results(options.results).frame
    images = load_images(plan)[1]
    for cell in plan.cells:
        name = f"{cell.defense.name}/{cell.attack.name}"
        if cell.attack.type != "autoattack" or cell.attack.arguments["version"] != "standard":
            print(f"{name}: not the standard version of AutoAttack")
            continue
        ours = frame[(frame.defense == cell.defense.name) & (frame.attack == cell.attack.name)].set_index("index")
        stands = torch.tensor((ours.loc[images.index.tolist()].verdict == "robust").to_numpy())
        theirs = robust(cell, images.x, images.y, options.seed)
        counts = f"robust {int(stands.sum())} here, {int(theirs.sum())} by the package"
        print(f"{name}: {counts}; {int((stands == theirs).sum())}/{len(theirs)} the same")


if __name__ == "__main__":
    main()
