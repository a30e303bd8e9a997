"""What each saving of `harness.search.Search` does to an attack's strength and to its time.

    python benchmarks/search_view.py                  prints Markdown tables, in about ten minutes

One process, one thread. Attacked are the first test digits by momentum steps on the margin (mu 0.9, one draw a step,
step lengths falling to 0, Linf 0.2, from the image), on the diffusion classifier and on RDC with a tanh for the sign's
derivative, both on ten timesteps; the last iterate is judged by ten fresh votes of the defense itself, in full and in
float32. Time is that of the thread, relative to the same attack without savings; the gradient's cosine is that of one
draw at the clean image with a mean of many full ones. The standard errors are over images, of the accuracy and of its
paired difference.

    python benchmarks/search_view.py gradients        the time of a whole gradient in forward passes, by the loss
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from attacks.common.losses import RowLoss, ce, margin
from defenses.dc import DC
from defenses.rdc import RDC
from harness import datasets
from harness.defense import Defense
from harness.predict import predict_votes
from harness.quantity import Quantity
from harness.randomness import row_seeds
from harness.search import Search
from harness.target import Target
from harness.threat import Linf

WEIGHTS = "digits-ncsnpp"
EPS, STEPS, MOMENTUM, VOTES, BATCH = 0.2, 50, 0.9, 10, 64
DRAWS = 24
"""Full gradients whose mean stands for the true one."""

ALL = dict(rivals=2, common_noise=True, precision="bf16")
DC_SAVINGS: dict[str, Search | None] = {
    "none": None,
    "common noise": Search(common_noise=True),
    "2 rivals": Search(rivals=2),
    "1 rival": Search(rivals=1),
    "half the timesteps": Search(timesteps=0.5),
    "half, by importance": Search(timesteps=0.5, importance=True),
    "0.3, by importance": Search(timesteps=0.3, importance=True),
    "bf16": Search(precision="bf16"),
    "2 rivals, common noise, bf16": Search(**ALL),
    "the same, half by importance": Search(timesteps=0.5, importance=True, **ALL),
    "the same, 0.3 by importance": Search(timesteps=0.3, importance=True, **ALL),
}
SHARED_SAVINGS: dict[str, Search | None] = {
    saved: DC_SAVINGS[saved]
    for saved in ("none", "2 rivals, common noise, bf16", "the same, half by importance", "the same, 0.3 by importance")
} | {
    "the same, a full look every 5 steps": Search(timesteps=0.3, importance=True, look_every=5, **ALL),
    "4 rivals, 0.3 by importance, bf16": Search(timesteps=0.3, importance=True, **{**ALL, "rivals": 4}),
    "0.3 by importance, bf16": Search(timesteps=0.3, importance=True, precision="bf16"),
}
RDC_SAVINGS: dict[str, Search | None] = {
    "none": None,
    "2 rivals, common noise, 0.3 by importance, bf16": Search(timesteps=0.3, importance=True, **ALL),
    "the same, half the timesteps of purification": Search(timesteps=0.3, importance=True, purify_timesteps=0.5, **ALL),
    "the same, 0.2 of them": Search(timesteps=0.3, importance=True, purify_timesteps=0.2, **ALL),
}


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def climb(target: Target, x: Tensor, loss: RowLoss) -> Tensor:
    """The last iterate."""
    threat, rows = Linf(Quantity(EPS)), torch.arange(len(x))
    found, velocity = x, torch.zeros_like(x)
    for step in range(STEPS):
        grad = target.step(found, rows, loss).grad
        velocity = MOMENTUM * velocity + grad / grad.abs().sum((1, 2, 3), keepdim=True).clamp(min=1e-20)
        length = 4 * EPS / STEPS * (1 - step / STEPS) * 1.25
        found = threat.project(x, found + length * velocity.sign())
    return found


def savings(name: str, defense: Defense, options: dict[str, Search | None], images: int) -> None:
    test = datasets.load("digits", "test")
    x, y, rows = test.images[:images], test.labels[:images], torch.arange(images)
    seeds = row_seeds(0, rows)

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        return margin(logits, y[rows])

    whole = Target(defense, x, seeds, batch_size=BATCH)
    mean = sum((whole.step(x, rows, loss).grad for _ in range(DRAWS)), torch.zeros_like(x))
    print(f"\n{name}, {images} images, {STEPS} steps\n")
    print("| saved | gradient's cosine | passes | time / full | robust, % | difference to full |")
    print("|---|---:|---:|---:|---:|---:|")
    full: tuple[float, Tensor] | None = None
    for saved, search in options.items():
        target = Target(defense, x, seeds, batch_size=BATCH)
        view = target.with_view(gradient="exact", eot=1, search=search, labels=y)
        found: list[Tensor] = []
        spent = seconds(lambda view=view, found=found: found.append(climb(view, x, loss)))  # type: ignore[misc]
        passes = float(target.forwards.double().mean())
        grads = [view.step(x, rows, loss).grad for _ in range(4)]
        cosine = torch.stack([torch.cosine_similarity(g.flatten(1), mean.flatten(1), dim=1).mean() for g in grads])
        votes = predict_votes(defense, found[0], y, row_seeds(1, rows), votes=VOTES, batch_size=BATCH).votes
        right = (votes == y).double().mean(0)
        full = full or (spent, right)
        apart = right - full[1]
        cells = [saved, f"{cosine.mean():.2f}", f"{passes:.0f}", f"{spent / full[0]:.2f}"]
        cells += [f"{100 * float(value.mean()):+.1f} ± {error(value):.1f}" for value in (right, apart)]
        print(f"| {' | '.join(cells)} |".replace("| +", "| ", 1), flush=True)


def error(values: Tensor) -> float:
    """Standard error of a mean over images, in points."""
    return 100 * float(values.std()) / len(values) ** 0.5


def gradients(images: int = 16, repeats: int = 9) -> None:
    test = datasets.load("digits", "test")
    x, y, rows = test.images[:images], test.labels[:images], torch.arange(images)
    target = Target(DC(WEIGHTS, timesteps=10), x, row_seeds(0, rows))
    ways: dict[str, Callable[[], object]] = {
        "K T' forward evaluations": lambda: target.defense_logits(x, rows),
        "margin (two passes)": lambda: target.step(x, rows, lambda z, r: margin(z, y[r])),
        "cross-entropy, two passes": lambda: target.step(x, rows, lambda z, r: ce(z, y[r])),
        "cross-entropy, as attacks ask": lambda: target.step(x, rows, lambda z, r: ce(z, y[r]), every_class=True),
    }
    for way in ways.values():
        way()
    times = [{name: seconds(way) for name, way in ways.items()} for _ in range(repeats)]
    print(f"\nDC, {images} images, {repeats} interleaved repeats\n")
    print("| gradient | over K T' forward evaluations: median | lowest | highest |")
    print("|---|---:|---:|---:|")
    for name in list(ways)[1:]:
        ratios = [found[name] / found["K T' forward evaluations"] for found in times]
        print(f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    gradients()
    if "gradients" not in sys.argv[1:]:
        savings("DC, noise of its own for each class", DC(WEIGHTS, timesteps=10), DC_SAVINGS, images=64)
        suites = dict(timesteps=10, share_noise="classes")
        savings("DC of the suites, one noise for all classes", DC(WEIGHTS, **suites), SHARED_SAVINGS, images=64)
        rdc = RDC(WEIGHTS, steps=5, eta=Quantity("0.2"), sign_gradient="tanh", **suites)
        savings("RDC of the suites, tanh", rdc, RDC_SAVINGS, images=32)


if __name__ == "__main__":
    main()
