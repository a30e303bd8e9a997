from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from harness.reporting import report, summarise
from harness.reporting.stats.naive import compare
from harness.reporting.tables.table import Row
from harness.results.load import read_run
from harness.results.record import Record

Column = Callable[..., list[Record]]
WEAK, STRONG = "r" * 16, "rr" + "w" * 14


def row(maker: Any, *naive: str, **report: Any) -> Row:
    (found,) = summarise(read_run(maker.finish(report={"naive": list(naive), **report}))).rows
    return found


@pytest.fixture
def marked(maker: Any, column: Column) -> Any:
    """A naive attack that finds 16 of 16 images robust, and another that finds 2."""
    maker.count = 16
    maker.cell("d", "weak", column(WEAK))
    maker.cell("d", "strong", column(STRONG))
    maker.attacks["weak"]["label"] = "PGD, blind"
    return maker


def test_a_naive_evaluation_that_a_better_attack_refutes_is_marked(marked: Any) -> None:
    found = row(marked, "weak")
    assert found.remarks == (
        "naive evaluation was misleading: accuracy is 100.0% under PGD, blind, and 12.5% under strong "
        "(exact paired test, p = 0.0001)",
    )
    assert found.naive[0].p == pytest.approx(stats.binomtest(0, 14).pvalue)


def test_without_naive_attacks_nothing_is_compared(marked: Any) -> None:
    assert row(marked).naive == () == row(marked).remarks


def test_five_images_are_too_few_to_mislead_and_six_are_enough(maker: Any, column: Column) -> None:
    maker.count = 16
    for defense, lost in (("five", 5), ("six", 6)):
        maker.cell(defense, "weak", column(WEAK))
        maker.cell(defense, "strong", column("w" * lost + "r" * (16 - lost)))
    five, six = summarise(read_run(maker.finish(report={"naive": ["weak"]}))).rows
    assert [bool(found.remarks) for found in (five, six)] == [False, True]
    assert five.naive[0].p == pytest.approx(1 / 16) and six.naive[0].p == pytest.approx(1 / 32)


def test_a_naive_evaluation_that_is_the_stronger_one_misleads_nobody(maker: Any, column: Column) -> None:
    maker.count = 16
    maker.cell("d", "weak", column(STRONG))
    maker.cell("d", "strong", column(WEAK))
    (comparison,) = row(maker, "weak").naive
    assert comparison.p < 0.05 and not comparison.misleading


def test_naive_attacks_count_together_image_by_image(maker: Any, column: Column) -> None:
    maker.count = 16
    maker.cell("d", "a", column("r" * 8 + "w" * 8))
    maker.cell("d", "b", column("w" * 8 + "r" * 8))
    maker.cell("d", "strong", column("w" * 16))
    (comparison,) = row(maker, "a", "b").naive
    assert comparison.naive_accuracy == 0 and not comparison.misleading


def test_attacks_of_another_budget_are_no_evidence(maker: Any, column: Column) -> None:
    maker.count = 16
    maker.cell("d", "weak", column(WEAK))
    maker.cell("d", "strong", column(STRONG), threat="L2 9")
    assert row(maker, "weak").naive == ()


def test_an_error_is_no_evidence_for_either_side(maker: Any, rec: Callable[..., Record], column: Column) -> None:
    maker.count = 16
    maker.cell("d", "weak", column(WEAK))
    maker.cell("d", "broken", [rec(i, verdict="error", error="out of memory") for i in range(16)])
    assert row(maker, "weak").naive == ()


def test_a_failed_naive_attack_is_no_evidence_and_the_others_are(
    maker: Any, rec: Callable[..., Record], column: Column
) -> None:
    maker.count = 16
    maker.cell("d", "broken", [rec(i, adv="", verdict="error", error="out of memory") for i in range(16)])
    maker.cell("d", "weak", column(WEAK))
    maker.cell("d", "strong", column(STRONG))
    (comparison,) = row(maker, "broken", "weak").naive
    assert comparison.naive == ("weak",) and comparison.misleading


def test_the_worst_of_noisy_naive_attacks_is_not_their_luckiest_draws(maker: Any, rec: Callable[..., Record]) -> None:
    """Two naive attacks that are right in other draws of an image leave half of them, not none."""
    maker.count = 16
    for attack, adv in (("a", "rw"), ("b", "wr"), ("strong", "ww")):
        maker.cell("d", attack, [rec(i, "rr", adv) for i in range(16)], stochastic=True)
    (comparison,) = row(maker, "a", "b").naive
    assert comparison.naive_accuracy == 0.5 and comparison.strongest_accuracy == 0 and comparison.misleading


def test_an_unfinished_naive_attack_is_not_judged(maker: Any, column: Column) -> None:
    maker.count = 16
    maker.cell("d", "weak", column("r" * 14))
    maker.cell("d", "strong", column(STRONG))
    assert row(maker, "weak").naive == ()


def test_the_choice_among_several_attacks_is_paid_for() -> None:
    naive, others = np.ones(16), {str(k): np.ones(16) for k in range(3)}
    others["2"][:7] = 0
    alone, chosen = compare(["n"], naive, {"2": others["2"]}), compare(["n"], naive, others)
    assert alone and chosen and chosen.strongest == "2"
    assert chosen.p == pytest.approx(3 * alone.p) and (alone.misleading, chosen.misleading) == (True, True)


def test_draws_of_equal_attacks_on_a_stochastic_defense_are_not_taken_for_a_difference() -> None:
    generator = np.random.default_rng(0)
    flagged = 0
    for _ in range(200):
        draws = generator.binomial(10, 0.5, (4, 64)) / 10
        found = compare(["n"], draws[0], {str(k): draws[k] for k in (1, 2, 3)})
        flagged += bool(found and found.misleading)
    assert flagged <= 10


@pytest.mark.slow
def test_every_format_carries_the_mark(marked: Any) -> None:
    root = marked.finish(report={"naive": ["weak"]})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report(root, "table"))
    texts = [console.export_text(), *(str(report(root, name)) for name in ("md", "latex", "json", "csv"))]
    assert all("naive evaluation was misleading" in text for text in texts)
    assert "100.0\\% under" in texts[2] and '"misleading": true' in texts[3]
    assert {line["misleading"] for line in csv.DictReader(io.StringIO(texts[4]))} == {"True"}
