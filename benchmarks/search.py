"""How many images of stochastic and diffusion defenses `adaptive` leaves robust, in what time, beside other attacks.

    python benchmarks/search.py [--rows dc,rdc] [--images 64] [--seed 1] [--attacks adaptive,suite,views] [--rounds 1]

prints a Markdown table. The defenses are those of the digits suites. Without `--images` and `--seed` the images are
those of the suite; otherwise so many of another choice. Each attack's images are judged by ten votes that it has not
seen; robust accuracy is their mean over votes and images, with its standard error over images. Attacks:

    adaptive   with its preset, or with so many rounds
    suite      what the suite takes: the attack that the table's numbers are by
    apgd       apgd_dlr_100 along the suite's view, five restarts of 100 steps
    views      60 momentum steps along each view of the defense, one attack each

CPU time is that of the attack alone. All runs are of one process with one thread, so that their ratios mean something.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from attacks.adaptive import Adaptive, views_of
from attacks.common.norms import Norm
from attacks.pgd import PGD
from harness.attack import Adversarial, Attack
from harness.config import registry
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.evaluation.pending import load_images
from harness.gradients import Gradient
from harness.predict import predict_votes
from harness.quantity import Quantity
from harness.randomness import derive, fenced, row_seeds
from harness.suite.plan import Cell, Plan, load_suite
from harness.target import Target

SUITES = Path(__file__).parents[1] / "suites" / "digits"

VOTES = 10

STEPS = 60
"""Of momentum PGD along a single view."""


@dataclass(frozen=True)
class Row:
    """A defense of a suite, with the attack that the suite has for it."""

    title: str
    suite: str
    defense: str
    attack: str


ROWS = {
    "dc": Row("DC, Linf 0.2", "table1_sota", "dc", "linf"),
    "dc_l2": Row("DC, L2 1.0", "table1_sota", "dc", "l2"),
    "rdc": Row("RDC, N = 5, Linf 0.2", "table1_sota", "rdc", "linf"),
    "rdc_1": Row("RDC-1 (fig. 2c), Linf 0.2", "fig2c_randomness", "rdc_1", "linf"),
    "rdc_n1": Row("RDC, N = 1 (table 3), Linf 0.2", "table3_adaptive", "rdc_1", "bpda"),
    "maximizer": Row("Likelihood maximizer, CNN, Linf 0.2", "sec44_likelihood_maximizer", "maximizer", "linf"),
    "diffpure": Row("DiffPure (t* 0.15), Linf 0.2", "fig2c_randomness", "diffpure", "linf"),
}


@dataclass(frozen=True)
class Measured:
    """One attack on one row: mean and standard error of robust accuracy, CPU seconds, passes per image."""

    name: str
    robust: float
    error: float
    seconds: float
    forwards: float
    backwards: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--images", type=int, help="as many as the suite takes, if left out")
    parser.add_argument("--seed", type=int, help="of the choice of images; the suite's, if left out")
    parser.add_argument("--attacks", default="adaptive,suite")
    parser.add_argument("--rounds", type=int, help="of adaptive; the preset's, if left out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| defense | n | attack | robust, % | CPU s | passes, forward | backward |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for name in options.rows.split(","):
        row = ROWS[name]
        cell, images = _row(row, options.images, options.seed)
        defense = cell.defense.build().eval().requires_grad_(False)
        for label, attack in _attacks(cell, defense, options.attacks.split(","), options.rounds):
            found = measure(label, defense, attack, images)
            robust = f"{100 * found.robust:.1f} ± {100 * found.error:.1f}"
            passes = f"{found.forwards:.0f} | {found.backwards:.0f}"
            print(f"| {row.title} | {len(images)} | {label} | {robust} | {found.seconds:.0f} | {passes} |", flush=True)


def measure(name: str, defense: Defense, attack: Attack, images: Images) -> Measured:
    """Attacks the images and asks for fresh votes."""
    target = Target(
        defense, images.x, row_seeds(derive("search", name), images.index), gradient=attack.gradient, eot=attack.eot
    )
    began = time.process_time()
    with fenced(derive("search", name)):
        found = Adversarial.of(attack.perturb(target, images.x.clone(), images.y))
    seconds = time.process_time() - began
    right = _judged(defense, found.images, images)
    error = float(right.std() / len(right) ** 0.5)
    passes = (float(counted.double().mean()) for counted in (target.forwards, target.backwards))
    return Measured(name, float(right.mean()), error, seconds, *passes)


def _judged(defense: Defense, found: Tensor, images: Images) -> Tensor:
    """Share of votes that are right, (N,)."""
    seeds = row_seeds(derive("search", "fresh votes"), images.index)
    answers = predict_votes(defense, found, images.y, seeds, votes=VOTES, batch_size=256)
    return (answers.votes == images.y.cpu()).double().mean(0)


def _row(row: Row, count: int | None, seed: int | None) -> tuple[Cell, Images]:
    plan = load_suite(SUITES / f"{row.suite}.yaml", only=f"{row.defense}/{row.attack}")
    _, images = load_images(_chosen(plan, count, seed))
    return plan.cells[0], images


def _chosen(plan: Plan, count: int | None, seed: int | None) -> Plan:
    """The suite with another choice of images."""
    changes = {name: value for name, value in (("size", count), ("seed", seed)) if value is not None}
    dataset = plan.suite.dataset.model_copy(update=changes)
    return replace(plan, suite=plan.suite.model_copy(update={"dataset": dataset}))


def _attacks(cell: Cell, defense: Defense, names: list[str], rounds: int | None) -> Iterator[tuple[str, Attack]]:
    suite: Attack = cell.attack.build()
    threat, gradient = suite.threat, suite.gradient
    norm, eps = norm_of(threat.name), threat.eps
    for name in names:
        if name == "adaptive":
            yield name, Adaptive(norm, eps) if rounds is None else Adaptive(norm, eps, rounds=rounds)
        elif name == "suite":
            yield f"the suite's: {suite.describe()}", suite
        elif name == "apgd":
            yield "apgd_dlr_100", registry.find("attacks", "apgd_dlr_100")(norm, eps, gradient=gradient)
        elif name == "views":
            yield from ((f"momentum, {view}", momentum(norm, eps, view)) for view in views_of(defense))
        else:
            raise SystemExit(f"no attack is called '{name}'; there are adaptive, suite, apgd and views")


def norm_of(name: str) -> Norm:
    """The norm of a threat model, by its name."""
    return "L2" if name == "L2" else "Linf"


def momentum(norm: Norm, eps: Quantity, view: Gradient) -> PGD:
    """What an expert would run by hand."""
    return PGD(norm, eps, steps=STEPS, loss="margin", momentum=0.9, gradient=view)


if __name__ == "__main__":
    main()
