from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.records import Record
from harness.report import load, summarise
from harness.report.statistics import wilson
from harness.report.table import Entry, Table

Column = Callable[..., list[Record]]
BOTH = {"average": ["a", "b"], "worst": ["a", "b"]}


def entry(table: Table, defense: str, column: str) -> Entry:
    at = [c.name for c in table.columns].index(column)
    return next(row for row in table.rows if row.name == defense).entries[at]


def value(table: Table, defense: str, column: str) -> float:
    estimate = entry(table, defense, column).estimate
    assert estimate is not None
    return estimate.value


def test_numbers_are_those_counted_by_hand(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrww", clean="rrrw"))
    maker.cell("d", "b", column("rwrw", clean="rrrw"))
    table = summarise(load(maker.finish(report=BOTH)))
    assert [c.name for c in table.columns] == ["clean", "a", "b", "average", "worst"]
    found = [value(table, "d", name) for name in ("clean", "a", "b", "average", "worst")]
    assert found == [0.75, 0.5, 0.5, 0.5, 0.25]
    estimate = entry(table, "d", "a").estimate
    assert estimate and (estimate.low, estimate.high, estimate.n) == (*wilson(2, 4), 4)


def test_rows_and_columns_keep_the_suites_order_and_labels(maker: Any, column: Column) -> None:
    for defense in ("z", "a"):
        for attack in ("second", "first"):
            maker.cell(defense, attack, column("rrrr"))
    maker.defenses["z"]["label"] = "Zed"
    maker.attacks["second"]["label"] = "Two"
    table = summarise(load(maker.finish()))
    assert [row.label for row in table.rows] == ["Zed", "a"]
    assert [c.label for c in table.columns] == ["Clean", "Two", "first"]


def test_an_error_is_not_robust_even_if_its_votes_are_right(maker: Any, rec: Callable[..., Record]) -> None:
    records = [rec(0), rec(1), rec(2, verdict="error", error="out of memory"), rec(3, adv="", verdict="error")]
    maker.cell("d", "a", records)
    table = summarise(load(maker.finish()))
    found = entry(table, "d", "a")
    assert found.status == "final" and found.errors == 2 and value(table, "d", "a") == 0.5
    assert found.remarks == ("2 images ended in an error, counted as not robust",)
    assert value(table, "d", "clean") == 1.0


def test_violations_are_counted_and_rounding_is_not(maker: Any, rec: Callable[..., Record]) -> None:
    broken = {"violation": 0.1, "flags": ["violation"]}
    records = [rec(0, **broken), rec(1, violation=5e-7), rec(2), rec(3, verdict="error", violation=float("inf"))]
    maker.cell("d", "a", records)
    found = entry(summarise(load(maker.finish())), "d", "a")
    assert (found.violations, found.errors) == (1, 1)
    assert found.remarks[1] == "1 image left the budget, counted as failures of the attack"
    assert len(found.remarks) == 2


def test_an_unfinished_pairing_gives_no_number_nor_do_those_that_need_it(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rr"))
    maker.cell("d", "b", column("rrrr"))
    table = summarise(load(maker.finish(report=BOTH)))
    for name in ("a", "average", "worst"):
        found = entry(table, "d", name)
        assert (found.status, found.done, found.total, found.estimate, found.benign) == ("unfinished", 2, 4, None, None)
    assert value(table, "d", "b") == value(table, "d", "clean") == 1.0


def test_clean_accuracy_is_unfinished_until_some_pairing_has_seen_every_image(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rr"))
    maker.cell("d", "b", [])
    found = entry(summarise(load(maker.finish())), "d", "clean")
    assert (found.status, found.done, found.total) == ("unfinished", 2, 4)


def test_clean_images_without_a_finite_answer_are_wrong_and_said_so(maker: Any, rec: Callable[..., Record]) -> None:
    nan = {"clean_votes": [-1], "clean_margins": [float("nan")], "verdict": "error"}
    maker.cell("d", "a", [rec(0), rec(1), rec(2), rec(3, **nan)])
    table = summarise(load(maker.finish()))
    assert value(table, "d", "clean") == 0.75
    assert entry(table, "d", "clean").remarks == ("1 image without a finite answer, counted as wrong",)


def test_a_pairing_outside_the_suite_is_absent_with_what_needs_it(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"))
    maker.cell("d", "b", column("rrrr"))
    maker.cell("e", "a", column("rrrr"))
    table = summarise(load(maker.finish(report=BOTH)))
    assert [entry(table, "e", name).status for name in ("a", "b", "average", "worst")] == ["final", *["absent"] * 3]


def test_damaged_and_stale_shards_leave_the_pairing_unfinished(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"))
    maker.cell("d", "b", column("rrrr"))
    maker.cells[-1]["key"] = "another key"
    path = maker.root / "cells/d/a/00000-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    table = summarise(load(maker.finish()))
    damaged, stale = entry(table, "d", "a"), entry(table, "d", "b")
    assert (damaged.status, damaged.done) == ("unfinished", 2)
    assert "the next run redoes them: 00000-00002.parquet cannot be read" in damaged.remarks[0]
    assert (stale.status, stale.done) == ("unfinished", 0)
    assert stale.remarks == ("not counted, records of another claim: images 0-2; 2-4",)


def test_many_damaged_shards_make_a_short_remark(maker: Any, column: Column) -> None:
    maker.count = 10
    maker.cell("d", "a", column("r" * 10))
    for path in (maker.root / "cells/d/a").glob("*.safetensors"):
        path.unlink()
    remark = entry(summarise(load(maker.finish())), "d", "a").remarks[0]
    assert remark.count("parquet") == 3 and remark.endswith("and 2 more")


def test_another_method_than_most_of_the_column_is_remarked(maker: Any, column: Column) -> None:
    for defense in ("d", "e"):
        maker.cell(defense, "a", column("rrrr"), method="autoattack standard")
    maker.cell("f", "a", column("rrrr"), method="pgd 20 steps, bpda")
    maker.cell("g", "a", column("rrrr"), method="autoattack standard", threat="Linf 4/255")
    table = summarise(load(maker.finish()))
    assert table.columns[1].method == "autoattack standard" and table.columns[1].threat == "Linf 8/255"
    remarks = [entry(table, name, "a").remarks for name in "defg"]
    assert remarks == [(), (), ("pgd 20 steps, bpda",), ("Linf 4/255, autoattack standard",)]


def test_gate_remarks_on_every_pairing_belong_to_the_row(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"), flags=["saturated logits", "zero gradient"])
    maker.cell("d", "b", column("rrrr"), flags=["saturated logits"])
    table = summarise(load(maker.finish()))
    assert table.rows[0].remarks == ("saturated logits",)
    assert (entry(table, "d", "a").remarks, entry(table, "d", "b").remarks) == (("zero gradient",), ())


def test_an_attacks_own_remarks_are_shown_once(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("d", "a", [rec(i, flags=["gradients are zero"]) for i in range(4)])
    assert entry(summarise(load(maker.finish())), "d", "a").remarks == ("gradients are zero",)


STOCHASTIC = {"single": (0.75, 0.75), "mean": (0.5, 0.75), "majority": (0.5, 0.75), "worst": (0.25, 0.5)}


@pytest.mark.parametrize("rule", list(STOCHASTIC))
def test_the_headline_rule_applies_to_robust_and_benign_images_alike(
    maker: Any, rec: Callable[..., Record], rule: str
) -> None:
    draws = [("rrr", "rrr"), ("rrr", "rww"), ("rrw", "rrw"), ("wwr", "www")]
    maker.cell("d", "a", [rec(i, *pair) for i, pair in enumerate(draws)], stochastic=True)
    table = summarise(load(maker.finish(votes=3, report={"vote": rule})))
    found = entry(table, "d", "a")
    assert found.estimate and found.benign
    assert (found.estimate.value, found.benign.value) == pytest.approx(STOCHASTIC[rule])
    assert value(table, "d", "clean") == pytest.approx(STOCHASTIC[rule][1])


def test_a_stochastic_defense_is_summarised_under_every_rule(maker: Any, rec: Callable[..., Record]) -> None:
    draws = [("rrr", "rrr"), ("rrr", "rww"), ("rrw", "rrw"), ("wwr", "www")]
    maker.cell("d", "a", [rec(i, *pair) for i, pair in enumerate(draws)], stochastic=True)
    row = summarise(load(maker.finish(votes=3))).rows[0]
    found = {rule: entries[1].estimate for rule, entries in row.by_rule.items()}
    assert {rule: estimate.value for rule, estimate in found.items() if estimate} == pytest.approx(
        {rule: robust for rule, (robust, _) in STOCHASTIC.items()}
    )


def test_the_worst_cases_baseline_takes_as_many_queries(maker: Any, rec: Callable[..., Record]) -> None:
    maker.count = 2
    maker.cell("d", "a", [rec(0, "rw", "rr"), rec(1, "rr", "rw")], stochastic=True)
    maker.cell("d", "b", [rec(0, "wr", "rr"), rec(1, "rr", "wr")], stochastic=True)
    found = entry(summarise(load(maker.finish(votes=2, report={**BOTH, "vote": "single"}))), "d", "worst")
    assert found.estimate and found.benign
    assert (found.estimate.value, found.benign.value) == (0.5, 0.5)


def test_clean_accuracy_prefers_a_pairing_in_which_the_defense_answered(
    maker: Any, rec: Callable[..., Record], column: Column
) -> None:
    maker.cell("d", "a", [rec(0, clean="", adv="", verdict="error"), *column("rrrr")[1:]])
    maker.cell("d", "b", column("rrrr", clean="rrrw"))
    found = entry(summarise(load(maker.finish())), "d", "clean")
    assert found.estimate and found.estimate.value == 1.0 and not found.remarks


def test_the_average_and_the_worst_of_one_attack_are_no_columns(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"))
    table = summarise(load(maker.finish(report={"average": ["a"], "worst": ["a"]})))
    assert [c.name for c in table.columns] == ["clean", "a"]
