"""Certified and attacked bounds: from stored counts and votes to the tables, and the faults that contradict them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from harness.reporting import formats
from harness.reporting.tables.certified import attacked_accuracy, certified_accuracy
from harness.reporting.tables.charts import charts
from harness.reporting.tables.table import summarise
from harness.results.bounds import Bounds, bounds, votes_needed
from harness.results.load import read_run
from harness.results.record import Record
from harness.results.store import Store

Rec = Callable[..., Record]

SIGMA, ALPHA, N = 0.5, 0.001, 1000
RIGHT = 1
K = (1000, 900, 700, 500)
"""Of N draws, those of the true class, image by image: the last one cannot be certified."""

RADII = [max(0.0, SIGMA * stats.norm.ppf(stats.beta.ppf(ALPHA, k, N - k + 1))) for k in K]
"""1.23, 0.56, 0.21, 0"""


def certified(maker, rec: Rec, votes: list[str], distances: list[float], k: tuple[int, ...] = K) -> Path:  # type: ignore[no-untyped-def]
    """A run with a certificate, and an attack that moved four images so far, with these votes."""
    counts = torch.tensor([[[0, 10], [N - each, each]] for each in k])
    maker.cell("s", "l2", [rec(i, "r" * 20, votes[i], l2=distances[i]) for i in range(4)], stochastic=True)
    maker.certificate("s", counts, n0=10, n=N, alpha=ALPHA, sigma=SIGMA)
    root: Path = maker.finish(votes=20)
    return root


def one(root: Path) -> Bounds:
    (found,) = bounds(read_run(root))
    return found


def test_bounds_are_the_certified_radius_and_the_distance_of_a_misclassified_image(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    found = one(certified(maker, rec, ["r" * 20, "w" * 20, "w" * 20, "w" * 20], [0.9, 0.8, 0.3, 0.1]))
    assert found.lower.tolist() == pytest.approx(RADII)
    assert found.upper.tolist() == pytest.approx([np.inf, 0.8, 0.3, 0.1])
    assert found.by == ("", "l2", "l2", "l2")
    assert found.faults == ()
    assert found.abstains == 0.25


def test_accuracy_at_a_radius_is_the_share_of_images_beyond_it(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    found = one(certified(maker, rec, ["r" * 20, "w" * 20, "w" * 20, "w" * 20], [0.9, 0.8, 0.3, 0.1]))
    for radius in (0.0, 0.2, 0.3, 0.6, 0.8, 2.0):
        assert certified_accuracy(found, radius).value == sum(r > radius for r in RADII) / 4
        assert attacked_accuracy(found, radius).value == sum(u > radius for u in (9, 0.8, 0.3, 0.1)) / 4
        assert certified_accuracy(found, radius).value <= attacked_accuracy(found, radius).value


def test_an_image_counts_as_broken_only_if_its_votes_show_it(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    """Of 20 votes, 18 against 2 has a p-value of 0.0004, and 17 against 3 one of 0.0026."""
    votes = ["r" * 20, "w" * 18 + "rr", "w" * 17 + "rrr", "w" * 11 + "r" * 9]
    found = one(certified(maker, rec, votes, [0.9, 0.8, 0.3, 0.1]))
    assert found.upper.tolist() == pytest.approx([np.inf, 0.8, np.inf, np.inf])


def test_a_certified_class_that_is_not_the_true_one_certifies_nothing(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    counts = torch.tensor([[[10, 0], [1000, 0]]] + [[[0, 10], [0, 1000]]] * 3)
    maker.cell("s", "l2", [rec(i, "r" * 20, "r" * 20) for i in range(4)], stochastic=True)
    maker.certificate("s", counts, n0=10, n=N, alpha=ALPHA, sigma=SIGMA)
    found = one(maker.finish(votes=20))
    assert found.lower[0] == 0 and (found.lower[1:] > 0).all()


@pytest.mark.parametrize("votes", ["w" * 20, "w" * 16 + "r" * 4])
def test_an_image_broken_within_its_certified_radius_is_a_fault_in_every_format(  # type: ignore[no-untyped-def]
    maker, rec: Rec, votes: str
) -> None:
    """In the second case the votes do not show that it is misclassified, only that they are too few for p_low."""
    root = certified(maker, rec, [votes, "r" * 20, "r" * 20, "r" * 20], [0.3, 0.5, 0.2, 0.1])
    (fault,) = one(root).faults
    assert (fault.index, fault.attack, fault.distance) == (100, "l2", pytest.approx(0.3))
    table = summarise(read_run(root))
    said = f"image 100 is certified up to {RADII[0]:.3g}, and at 0.3 (l2) {votes.count('w')} of 20 votes"
    for name in ("md", "html", "csv", "latex"):
        text = str(formats.find(name).render([table]))
        assert "FAULT: s was attacked below" in text or "FAULT: image 100" in text, name
        assert said in text.replace("\\", ""), name
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(formats.find("table").render([table]))
    assert said in console.export_text()
    (document,) = json.loads(str(formats.find("json").render([table])))["runs"]
    assert document["certificates"][0]["faults"][0]["index"] == 100


def test_as_many_wrong_votes_as_the_certificate_allows_at_a_distance_are_no_fault(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    """At 0.2 the second certificate, p_low = 0.87, still promises p >= 0.76: 12 of 20 votes are no contradiction."""
    assert (
        one(certified(maker, rec, ["r" * 20, "r" * 12 + "w" * 8, "r" * 20, "r" * 20], [0.9, 0.2, 0.1, 0.1])).faults
        == ()
    )


def test_clean_images_that_contradict_their_certificate_are_faults_too(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    """The first counts say that class 0 is almost certain; the votes on the image itself are all for class 1."""
    counts = torch.tensor([[[10, 0], [1000, 0]]] + [[[0, 10], [0, 1000]]] * 3)
    maker.certificate("s", counts, n0=10, n=N, alpha=ALPHA, sigma=SIGMA)
    maker.cell("s", "l2", [rec(i, "r" * 20, "r" * 20, l2=9.0) for i in range(4)], stochastic=True)
    (fault,) = one(maker.finish(votes=20)).faults
    assert (fault.index, fault.attack, fault.distance) == (100, "the image itself", 0.0)


def test_with_too_few_votes_the_attacked_accuracy_is_left_out_and_the_table_says_how_many_it_takes(  # type: ignore[no-untyped-def]
    maker, rec: Rec
) -> None:
    counts = torch.tensor([[[0, 10], [0, 1000]]] * 4)
    maker.cell("s", "l2", [rec(i, "r" * 5, "w" * 5, l2=9.0) for i in range(4)], stochastic=True)
    maker.certificate("s", counts, n0=10, n=N, alpha=ALPHA, sigma=SIGMA)
    text = str(formats.find("md").render([summarise(read_run(maker.finish(votes=5)))]))
    assert "5 votes can show no misclassification at that level: write" in text and "votes: 11" in text
    attacked = next(line for line in text.splitlines() if "attacked" in line)
    assert attacked.count("–") == attacked.count("|") - 4


def test_so_many_unanimous_votes_and_no_fewer_show_a_class() -> None:
    for alpha in (0.05, 0.01, 0.001, 1e-6):
        v = votes_needed(alpha)
        assert stats.binomtest(0, v, 0.5).pvalue <= alpha < stats.binomtest(0, v - 1, 0.5).pvalue


def test_certificates_are_columns_of_no_attack_and_have_a_curve(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    root = certified(maker, rec, ["r" * 20, "w" * 20, "w" * 20, "w" * 20], [0.9, 0.8, 0.3, 0.1])
    table = summarise(read_run(root))
    assert [column.name for column in table.columns] == ["clean", "l2"]
    (curve,) = [chart for chart in charts(table) if chart.kind == "certified"]
    (line,) = curve.lines
    assert [dot.estimate.value for dot in line.dots] == [sum(r > dot.x for r in RADII) / 4 for dot in line.dots]
    rows = list(csv.DictReader(io.StringIO(str(formats.find("csv").render([table])))))
    at = {(row["kind"], row["threat"]): float(row["accuracy"]) for row in rows if row["kind"][-2:] == "ed"}
    assert at["certified", "L2 0"] == 0.75 and at["certified", "L2 0.25"] == 0.5 and at["attacked", "L2 0.25"] == 0.75


def test_counts_that_cannot_be_are_damage(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    counts = torch.tensor([[[0, 10], [0, 1001]]] * 4)
    maker.cell("s", "l2", [rec(i, "r", "r") for i in range(4)], stochastic=True)
    maker.certificate("s", counts.clamp(max=1000), n0=10, n=999, alpha=ALPHA, sigma=SIGMA)
    (cell,) = read_run(maker.finish()).certificates.values()
    assert not cell.finished and "an image has counts of 1000 draws, of 999" in cell.damaged[0]


def test_images_whose_certificate_failed_are_not_certified_and_are_counted(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    """A shard that failed as a whole has no counts."""
    counts = torch.tensor([[[0, 10], [0, 1000]]] * 4)
    maker.cell("s", "l2", [rec(i, "r" * 20, "r" * 20) for i in range(4)], stochastic=True)
    maker.certificate("s", counts, n0=10, n=N, alpha=ALPHA, sigma=SIGMA)
    failed = [rec(i, "", "", verdict="error", error="it failed", l2=0.0) for i in (2, 3)]
    Store(maker.root).cell("s", "cohen", "cohen").write(2, 4, failed, {"images": torch.zeros(2, 1, 2, 2)})
    root = maker.finish(votes=20)
    found = one(root)
    assert (found.lower > 0).tolist() == [True, True, False, False] and found.failed == 2
    assert "2 images ended in an error, and count as not certified" in str(
        formats.find("md").render([summarise(read_run(root))])
    )


def test_the_page_folds_the_table_with_a_line_for_each_image(maker, rec: Rec) -> None:  # type: ignore[no-untyped-def]
    table = summarise(read_run(certified(maker, rec, ["r" * 20] * 4, [0.1] * 4)))
    page = str(formats.find("html").render([table]))
    folded = [part.partition("</details>")[0] for part in page.split("<details>")[1:]]
    assert ["image by image" in part for part in folded].count(True) == 1
    assert "Certified in L2 (cohen)" in page and not any("Certified in L2 (cohen)" in part for part in folded)
