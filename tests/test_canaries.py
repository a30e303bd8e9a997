"""The harness's test of itself: it breaks defenses known to be broken, and marks evaluations that mislead."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from attacks.common.losses import LossName
from attacks.pgd import PGD
from defenses.optimal_dc import OptimalDC
from harness import datasets
from harness.attack import Adversarial
from harness.evaluation.run import run
from harness.quantity import Quantity
from harness.reporting import Run, report, summarise
from harness.reporting.tables.table import Row
from harness.results.load import read_run
from harness.suite import load_suite
from harness.target import Target

pytestmark = pytest.mark.slow

SUITE = Path(__file__).parents[1] / "suites" / "canaries.yaml"
CANARIES = (
    *("jpeg", "bit_depth", "thermometer", "resize_and_pad"),
    *("input_dropout", "scaled_logits", "shattered"),
    *("reversed_draws", "iterated_rounding", "shattered_detail"),
)
VIEWS = {
    "reversed_draws": {"select": "all"},
    "iterated_rounding": {"surrogate_steps": None},
    "shattered_detail": {"low_frequency": None},
}
"""Canaries for one view each, and the adaptive attack without it."""
NEAR = 0.05
"""How far above the undefended network's a broken defense's accuracy may be."""

UNDIFFERENTIABLE = """\
suite: detached
dataset: {name: digits, first: 8}
defenses:
  jpeg: {type: "defenses.canaries.jpeg:JPEG", classifier: {type: undefended, weights: digits-cnn}}
attacks:
  exact: {type: pgd, norm: Linf, eps: 0.2, steps: 5}
  blind: {type: pgd, norm: Linf, eps: 0.2, steps: 5, gradient: blind}
report: {naive: [exact]}
"""


def finished(suite: Path, folder: Path, limit: int | None = None) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(load_suite(suite, limit=limit), folder, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(SUITE, tmp_path_factory.mktemp("canaries"), limit=32)


def values(row: Row) -> dict[str, float]:
    """Accuracies by the names of the columns."""
    estimates = [entry.estimate for entry in row.entries]
    return {name: found.value if found else math.nan for name, found in zip(COLUMNS, estimates, strict=True)}


COLUMNS = ("clean", "naive", "adaptive", "few_naive", "few", "worst")


def rows(folder: Path) -> dict[str, Row]:
    table = summarise(read_run(folder))
    assert tuple(column.name for column in table.columns) == COLUMNS
    return {row.name: row for row in table.rows}


def test_the_suite_has_every_canary(canaries: Path) -> None:
    assert tuple(rows(canaries)) == ("undefended", *CANARIES)


@pytest.mark.parametrize("name", CANARIES)
def test_a_broken_defense_falls_to_the_undefended_network(name: str, canaries: Path) -> None:
    found = rows(canaries)
    reached = values(found[name])
    assert reached["worst"] <= values(found["undefended"])["worst"] + NEAR
    assert reached["clean"] >= 0.8 and reached["naive"] >= 0.2
    assert not any(entry.errors or entry.violations for entry in found[name].entries)


def test_a_few_values_break_what_has_no_gradient_along_its_surrogate(canaries: Path) -> None:
    found = {name: values(row) for name, row in rows(canaries).items() if name in ("undefended", "bit_depth")}
    assert found["bit_depth"]["few_naive"] >= 0.9, "the gradient is zero"
    assert found["bit_depth"]["few"] <= found["undefended"]["few"] + NEAR <= 0.2


@pytest.mark.parametrize("name", VIEWS)
def test_each_newer_view_breaks_the_canary_that_the_same_attack_without_it_does_not(
    name: str, canaries: Path, tmp_path: Path
) -> None:
    text = re.sub(r"report: .*", "report: {average: []}", SUITE.read_text())
    (option,) = VIEWS[name]
    text = re.sub(rf", {option}: \w+", "", text)
    (tmp_path / "without.yaml").write_text(text)
    without = load_suite(tmp_path / "without.yaml", limit=32, only=f"{name}/adaptive")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(without, tmp_path / "out", torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    pairing = read_run(tmp_path / "out").pairings[name, "adaptive"]
    withstand = (pairing.records["verdict"] == "robust").mean()
    assert withstand >= values(rows(canaries)[name])["adaptive"] + 0.2


def test_the_report_marks_the_evaluations_that_mislead_and_no_other(canaries: Path) -> None:
    found = rows(canaries)
    marked = [name for name, row in found.items() if any("naive evaluation was misleading" in r for r in row.remarks)]
    assert marked == list(CANARIES)
    assert all(comparison.p < 0.05 for name in CANARIES for comparison in found[name].naive)


@pytest.mark.parametrize("format", ["md", "latex"])
def test_readable_formats_carry_the_mark(format: str, canaries: Path) -> None:
    text = report(canaries, format)
    assert isinstance(text, str) and text.count("naive evaluation was misleading: accuracy is") >= 4


def test_data_carries_the_mark(canaries: Path) -> None:
    lines = pd.read_csv(io.StringIO(str(report(canaries, "csv"))))
    marked = lines.groupby("defense")["misleading"].all()
    assert {name for name, flag in marked.items() if flag} == set(CANARIES)


def test_a_defense_that_cannot_be_differentiated_is_an_error_and_not_robust(tmp_path: Path) -> None:
    (tmp_path / "detached.yaml").write_text(UNDIFFERENTIABLE)
    done: Run = read_run(finished(tmp_path / "detached.yaml", tmp_path / "out"))
    records = done.pairings["jpeg", "exact"].records
    assert (records["verdict"] == "error").all() and records["error"].str.contains("grad").all()
    (row,) = summarise(done).rows
    assert row.entries[1].status == "failed" and row.entries[1].estimate is None and not row.naive


def test_sums_over_pixels_blind_plain_cross_entropy_and_no_other_loss() -> None:
    """Logits of a diffusion classifier, -sum_pixels (Eq. 6): softmax rounds their differences to 0 and 1."""
    data = datasets.load("digits", "test")
    x, y, seeds = data.images[:8], data.labels[:8], torch.arange(8)
    options = dict(per_class=5, timesteps=[20], noise="fixed", share_noise="classes")
    summed, averaged = (OptimalDC("digits", reduction=reduction, **options).eval() for reduction in ("sum", "mean"))

    def right(defense: OptimalDC, images: torch.Tensor) -> float:
        with torch.no_grad():
            return (defense(images).argmax(1) == y).float().mean().item()

    def held(defense: OptimalDC, loss: LossName) -> float:
        attack = PGD("Linf", Quantity("0.4"), steps=6, loss=loss, random_start=False)
        return right(defense, Adversarial.of(attack.perturb(Target(defense, x, seeds), x, y)).images)

    with torch.no_grad():
        gap = summed(x).topk(2).values.diff().abs()
    assert gap.median() >= 100
    assert held(summed, "ce-plain") == right(summed, x) >= 0.85
    assert max(held(summed, loss) for loss in ("ce", "margin", "dlr")) <= 0.15
    assert held(averaged, "ce-plain") <= 0.15
