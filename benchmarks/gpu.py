"""How fast a GPU evaluates and attacks the networks of the paper's tables, and how many hours each row takes on it.

    python benchmarks/gpu.py                               writes the GPU section of benchmarks/RESULTS.md, in minutes
    python benchmarks/gpu.py --device cpu --tiny           the same on the digits' small networks, printed only

Networks have their full size, and random weights where no checkpoint is present, which takes the same time. Defenses
are reduced to a few timesteps and solver steps, as by `harness show --measure`: their speeds are given per network
evaluation. Without a GPU the script says so, changes nothing, and exits with status 0. What does not fit into memory,
or does not run in a precision, is marked as failed. After `BUDGET` seconds it starts no further measurement.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from attacks.autoattack import AutoAttack
from attacks.common.losses import margin
from harness.defense import Defense
from harness.dry_run import cost
from harness.dry_run.meta_checkpoints import all_on_meta
from harness.dry_run.placeholders import placeholder_cache
from harness.dry_run.smoke import reduced
from harness.errors import UserError, one_line
from harness.quantity import Quantity
from harness.results.environment import device_name
from harness.suite.build import build_defense
from harness.suite.plan import Plan, load_suite
from harness.target import Target

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
START, END = "<!-- gpu -->", "<!-- /gpu -->"

BUDGET = 420
"""Seconds after which no measurement is started."""

TABLES = ("table1_sota", "table2_unseen", "table3_adaptive")
ROWS = {
    "at_edm_linf": "WRN-70-16",
    "hybvit": "HybViT",
    "jem": "WRN-28-10 of JEM",
    "dc": "DC, NCSN++",
    "dc_edm": "DC, EDM",
    "rdc": "RDC, NCSN++",
    "diffpure_linf": "DiffPure, DDPM++ deep and WRN-70-16",
}
"""The defenses of table 1 that are measured in each precision, by their names there."""

PRECISIONS = ("float32", "tf32", "bf16", "fp16")
STEPS, QUERIES = 10, 100
"""Of AutoAttack's APGD and of its Square, whose speeds do not depend on how many there are."""


@dataclass
class Bench:
    """Where, how large and how long.

    Args:
        device: the device that is measured.
        tiny: the networks of the digits in place of the paper's, a few images, a single round.
    """

    device: torch.device
    tiny: bool
    began: float = field(default_factory=time.monotonic)

    @property
    def batch(self) -> int:
        return 4 if self.tiny else 64

    @property
    def shortest(self) -> float:
        """Seconds that a measurement takes at least."""
        return 0.0 if self.tiny else 1.0

    @property
    def precisions(self) -> Sequence[str]:
        return PRECISIONS if self.device.type == "cuda" else ("float32", "bf16")

    def plan(self, table: str) -> Plan:
        """A table of the paper, or its counterpart on the digits. To be called inside `placeholder_cache`."""
        folder = ROOT / "suites" / "digits" if self.tiny else ROOT / "suites"
        return all_on_meta(load_suite(folder / f"{table}.yaml"))

    def late(self) -> bool:
        return time.monotonic() - self.began > BUDGET

    def rate(self, work: Callable[[], None]) -> float:
        """Times per second that some work is done; the first time does not count."""
        work()
        self.wait()
        rounds, began = 0, time.perf_counter()
        while not rounds or time.perf_counter() - began < self.shortest:
            work()
            self.wait()
            rounds += 1
        return rounds / (time.perf_counter() - began)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """The code inside computes in a precision."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    try:
        with torch.autocast(device.type, half) if half else nullcontext():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def built(plan: Plan, name: str, device: torch.device) -> Defense | None:
    """A defense of a plan, reduced, on a device; None where the plan has none of this name."""
    component = next((cell.defense for cell in plan.cells if cell.defense.name == name), None)
    if component is None:
        return None
    defense = build_defense(reduced(component))
    cost.materialise(defense)
    return defense.to(device)


def forward(defense: Defense, x: Tensor) -> None:
    with torch.no_grad():
        defense(x)


def gradient(defense: Defense, x: Tensor) -> None:
    """Of the margin between the strongest class and the next."""
    x = x.detach().requires_grad_()
    logits = defense(x)
    torch.autograd.grad(margin(logits.float(), logits.detach().argmax(1)).sum(), x)


def speed_lines(bench: Bench, plan: Plan, shape: tuple[int, ...]) -> Iterator[str]:
    """A line of the table for each network and precision."""
    for name, title in ROWS.items():
        if bench.late():
            return
        defense = built(plan, name, bench.device)
        for precision in bench.precisions if defense is not None else ():
            x = torch.rand(bench.batch, *shape, device=bench.device)
            cells = [title, precision, *_speeds(bench, defense, x, precision)]
            yield f"| {' | '.join(cells)} |"


def _speeds(bench: Bench, defense: Defense, x: Tensor, precision: str) -> list[str]:
    try:
        with computing_in(precision, bench.device):
            images, gradients = (len(x) * bench.rate(partial(work, defense, x)) for work in (forward, gradient))
    except (RuntimeError, UserError) as error:
        print(f"failed: {one_line(error)}", flush=True)
        return ["failed"] * 4
    return [f"{number:,.1f}" for number in (images, images * defense.cost(), gradients)] + [f"{images / gradients:.2f}"]


def autoattack_lines(bench: Bench, plan: Plan, shape: tuple[int, ...]) -> Iterator[str]:
    """AutoAttack on the first row, in float32, with fewer steps: images that pass through it a second."""
    defense = None if bench.late() else built(plan, next(iter(ROWS)), bench.device)
    if defense is None:
        return
    x = torch.rand(bench.batch, *shape, device=bench.device)
    with torch.no_grad():
        y = defense(x).argmax(1)
    stages = ["apgd-ce", "apgd-t", "fab-t", "square"]
    attack = AutoAttack("Linf", Quantity("1e-6"), "custom", stages, apgd_steps=STEPS, square_queries=QUERIES)
    target = Target(defense, x, torch.arange(len(x), device=bench.device))
    began = time.perf_counter()
    attack.perturb(target, x, y)
    bench.wait()
    spent = time.perf_counter() - began
    forwards, backwards = int(target.forwards.sum()), int(target.backwards.sum())
    whole = AutoAttack("Linf", Quantity("8/255")).cost(defense.num_classes or 10)
    rate = (forwards + defense.backward_cost * backwards) / spent
    hours = (whole.forwards + defense.backward_cost * whole.backwards) / rate / 3600
    yield f"| {ROWS[next(iter(ROWS))]} | {forwards:,} | {backwards:,} | {rate:,.1f} | {512 * hours:,.2g} |"


def hour_lines(bench: Bench, table: str) -> Iterator[str]:
    """A line for each defense of a table: the hours of all its pairings, at most, in float32."""
    if bench.late():
        return
    plan = bench.plan(table)
    costs = cost.estimate(plan)
    speed = cost.speeds(plan, bench.device, shortest=bench.shortest)
    for name, hours in sorted_hours(costs, speed).items():
        yield f"| `{table}` | {name} | {speed[name]:,.1f} | {hours:,.3g} |"


def sorted_hours(costs: list[cost.CellCost], speed: dict[str, float]) -> dict[str, float]:
    """The hours of each defense, all its attacks together, in the order of the table."""
    total = dict.fromkeys(speed, 0.0)
    for one, hours in zip(costs, cost.hours(costs, speed), strict=True):
        total[one.defense] += hours
    return total


def section(bench: Bench) -> str:
    """The GPU section of the page, in Markdown."""
    with placeholder_cache():
        plan = bench.plan(TABLES[0])
        shape = cost.image_shape(plan)
        parts = [
            f"`python benchmarks/gpu.py` on {device_name(bench.device)}, PyTorch {torch.__version__}, batches of "
            f"{bench.batch}, random weights where no checkpoint was present.",
            table(
                ["network", "precision", "images/s", "evaluations/s", "images/s with gradient", "gradient / forward"],
                speed_lines(bench, plan, shape),
            ),
            f"AutoAttack with {STEPS} APGD steps and {QUERIES} Square queries, float32; hours of the full standard "
            "version for 512 images that all withstand.",
            table(
                ["network", "forward passes", "backward passes", "evaluations/s", "hours, 512 images"],
                autoattack_lines(bench, plan, shape),
            ),
            "GPU-hours of each row, at most: images that fall take fewer.",
            table(
                ["table", "row", "evaluations/s", "hours"],
                (line for name in (TABLES[:1] if bench.tiny else TABLES) for line in hour_lines(bench, name)),
            ),
        ]
    if bench.late():
        parts.append(f"What is missing above was not started within {BUDGET} seconds.")
    return "\n\n".join(parts)


def table(columns: list[str], lines: Iterator[str]) -> str:
    found = []
    for line in lines:
        print(line, flush=True)
        found.append(line)
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *found])


def replaced(page: str, text: str) -> str:
    """The page with a text between its markers."""
    before, _, rest = page.partition(START)
    return f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the small networks of the digits; the page is left alone")
    parser.add_argument("--page", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"There is no GPU here: {options.page.name} is left as it is.")
        return
    text = section(Bench(device, options.tiny))
    if not options.tiny:
        options.page.write_text(replaced(options.page.read_text(), text))


if __name__ == "__main__":
    main()
