from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.reporting import summarise
from harness.reporting.stats.accuracy import wilson
from harness.reporting.tables.table import Entry, Table
from harness.results.load import read_run
from harness.results.record import Record

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
    table = summarise(read_run(maker.finish(report=BOTH)))
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
    table = summarise(read_run(maker.finish()))
    assert [row.label for row in table.rows] == ["Zed", "a"]
    assert [c.label for c in table.columns] == ["Clean", "Two", "first"]


def crash(index: int, rec: Callable[..., Record], **changes: Any) -> Record:
    return rec(index, **{"adv": "", "verdict": "error", "error": "OutOfMemoryError: too much (mine.py:3)", **changes})


def test_a_failed_attack_has_no_number_nor_has_what_needs_it(
    maker: Any, rec: Callable[..., Record], column: Column
) -> None:
    """Every image ended in an error, with the clean images stored: neither robust nor misclassified."""
    for votes in ("", "r", "w"):
        maker.cell(f"d{votes}", "a", [crash(i, rec, adv=votes) for i in range(4)])
        maker.cell(f"d{votes}", "b", column("rrrr"))
    maker.attacks["a"]["label"] = "PGD"
    table = summarise(read_run(maker.finish(report=BOTH)))
    for defense in ("d", "dr", "dw"):
        found = entry(table, defense, "a")
        assert (found.status, found.estimate, found.benign, found.errors) == ("failed", None, None, 4)
        said = "failed: 4 of 4 images ended in an error: OutOfMemoryError: too much (mine.py:3)"
        assert found.remarks == (said,)
        for name in ("average", "worst"):
            other = entry(table, defense, name)
            assert (other.status, other.estimate, other.errors) == ("failed", None, 4)
            assert other.remarks == ("failed, since PGD failed",)
        assert value(table, defense, "b") == value(table, defense, "clean") == 1.0


@pytest.mark.slow
def test_a_few_errors_are_left_out_of_the_value_and_left_open_by_the_interval(
    maker: Any, rec: Callable[..., Record], column: Column
) -> None:
    maker.count = 40
    maker.cell("d", "a", [*column("r" * 19 + "w" * 20), crash(39, rec, adv="r")])
    maker.cell("d", "b", column("r" * 30 + "w" * 10))
    table = summarise(read_run(maker.finish(report=BOTH)))
    found = entry(table, "d", "a")
    assert found.status == "final" and found.estimate and found.benign and found.benign.value == 1
    assert found.estimate.value == 19 / 39
    assert (found.estimate.low, found.estimate.high) == (wilson(19, 40)[0], wilson(20, 40)[1])
    assert found.remarks == (
        "1 image ended in an error, left out of the accuracy but allowed for by the interval: "
        "OutOfMemoryError: too much (mine.py:3)",
    )
    for name in ("average", "worst"):
        assert entry(table, "d", name).remarks == (
            "errors under a, left out of the accuracy but allowed for by the interval",
        )
    worst = entry(table, "d", "worst").estimate  # b fools the image that ended in an error under a
    assert worst and worst.value == 19 / 40 and (worst.low, worst.high) == wilson(19, 40)


def test_errors_of_an_unfinished_pairing_are_said(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("d", "a", [rec(0), crash(1, rec)])
    found = entry(summarise(read_run(maker.finish())), "d", "a")
    assert found.status == "unfinished"
    assert found.remarks == ("1 image ended in an error: OutOfMemoryError: too much (mine.py:3)",)


@pytest.mark.slow
def test_few_errors_under_each_of_many_attacks_are_too_many_for_the_worst_case(
    maker: Any, rec: Callable[..., Record], column: Column
) -> None:
    maker.count = 40
    for place, attack in enumerate("abc"):
        records = column("r" * 40)
        records[place] = crash(place, rec)
        maker.cell("d", attack, records)
    names = {"average": list("abc"), "worst": list("abc")}
    table = summarise(read_run(maker.finish(report=names)))
    assert value(table, "d", "average") == 1
    found = entry(table, "d", "worst")
    assert found.status == "failed" and found.estimate is None
    assert found.remarks == ("failed: 3 of 40 images ended in an error under one attack or another",)


def test_a_long_reason_is_cut_short(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("d", "a", [crash(i, rec, error="long\n " * 200) for i in range(4)])
    (remark,) = entry(summarise(read_run(maker.finish())), "d", "a").remarks
    assert len(remark) < 230 and remark.endswith("…") and "\n" not in remark


def test_violations_are_counted_and_rounding_is_not(maker: Any, rec: Callable[..., Record]) -> None:
    broken = {"violation": 0.1, "flags": ["violation"]}
    records = [rec(0, **broken), rec(1, violation=5e-7), rec(2), rec(3, verdict="error", violation=float("inf"))]
    maker.cell("d", "a", records)
    found = entry(summarise(read_run(maker.finish())), "d", "a")
    assert (found.violations, found.errors) == (1, 1)
    assert found.remarks[1] == "1 image outside the budget, counted as failures of the attack"
    assert len(found.remarks) == 2


def test_an_unfinished_pairing_gives_no_number_nor_do_those_that_need_it(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rr"))
    maker.cell("d", "b", column("rrrr"))
    table = summarise(read_run(maker.finish(report=BOTH)))
    for name in ("a", "average", "worst"):
        found = entry(table, "d", name)
        assert (found.status, found.done, found.total, found.estimate, found.benign) == ("unfinished", 2, 4, None, None)
    assert value(table, "d", "b") == value(table, "d", "clean") == 1.0


def test_clean_accuracy_is_unfinished_until_some_pairing_has_seen_every_image(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rr"))
    maker.cell("d", "b", [])
    found = entry(summarise(read_run(maker.finish())), "d", "clean")
    assert (found.status, found.done, found.total) == ("unfinished", 2, 4)


def test_clean_images_without_a_finite_answer_are_errors_too(
    maker: Any, rec: Callable[..., Record], column: Column
) -> None:
    nan = {"clean_votes": [-1], "clean_margins": [float("nan")], "verdict": "error", "error": "NaN logits"}
    maker.count = 20
    maker.cell("few", "a", [*column("r" * 18, clean="r" * 17 + "w"), rec(18), rec(19, **nan)])
    maker.cell("many", "a", [*column("r" * 18), rec(18, **nan), rec(19, **nan)])
    maker.cell("all", "a", [crash(i, rec, clean="") for i in range(20)])
    table = summarise(read_run(maker.finish()))
    few = entry(table, "few", "clean")
    assert few.estimate and few.estimate.value == 18 / 19
    assert (few.estimate.low, few.estimate.high) == (wilson(18, 20)[0], wilson(19, 20)[1])
    said = "1 image without finite logits, left out of the accuracy but allowed for by the interval: NaN logits"
    assert few.remarks == (said,)
    for name, count, reason in (("many", 2, "NaN logits"), ("all", 20, "OutOfMemoryError: too much (mine.py:3)")):
        found = entry(table, name, "clean")
        assert (found.status, found.estimate, found.errors) == ("failed", None, count)
        assert found.remarks == (f"failed: {count} of 20 images without finite logits: {reason}",)


def test_a_pairing_outside_the_suite_is_absent_with_what_needs_it(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"))
    maker.cell("d", "b", column("rrrr"))
    maker.cell("e", "a", column("rrrr"))
    table = summarise(read_run(maker.finish(report=BOTH)))
    assert [entry(table, "e", name).status for name in ("a", "b", "average", "worst")] == ["final", *["absent"] * 3]


def test_damaged_and_stale_shards_leave_the_pairing_unfinished(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"))
    maker.cell("d", "b", column("rrrr"))
    maker.cells[-1]["key"] = "another key"
    path = maker.root / "cells/d/a/00000-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    table = summarise(read_run(maker.finish()))
    damaged, stale = entry(table, "d", "a"), entry(table, "d", "b")
    assert (damaged.status, damaged.done) == ("unfinished", 2)
    assert "computed again by the next run: 00000-00002.parquet cannot be read" in damaged.remarks[0]
    assert (stale.status, stale.done) == ("unfinished", 0)
    assert stale.remarks == ("not counted, since the records have another cell key: images 0-2; 2-4",)


def test_many_damaged_shards_make_a_short_remark(maker: Any, column: Column) -> None:
    maker.count = 10
    maker.cell("d", "a", column("r" * 10))
    for path in (maker.root / "cells/d/a").glob("*.safetensors"):
        path.unlink()
    remark = entry(summarise(read_run(maker.finish())), "d", "a").remarks[0]
    assert remark.count("parquet") == 3 and remark.endswith("and 2 more")


def test_another_method_than_most_of_the_column_is_remarked(maker: Any, column: Column) -> None:
    for defense in ("d", "e"):
        maker.cell(defense, "a", column("rrrr"), method="autoattack standard")
    maker.cell("f", "a", column("rrrr"), method="pgd 20 steps, bpda")
    maker.cell("g", "a", column("rrrr"), method="autoattack standard", threat="Linf 4/255")
    table = summarise(read_run(maker.finish()))
    assert table.columns[1].method == "autoattack standard" and table.columns[1].threat == "Linf 8/255"
    remarks = [entry(table, name, "a").remarks for name in "defg"]
    assert remarks == [(), (), ("pgd 20 steps, bpda",), ("Linf 4/255, autoattack standard",)]


def test_gate_remarks_on_every_pairing_belong_to_the_row(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"), flags=["saturated logits", "zero gradient"])
    maker.cell("d", "b", column("rrrr"), flags=["saturated logits"])
    table = summarise(read_run(maker.finish()))
    assert table.rows[0].remarks == ("saturated logits",)
    assert (entry(table, "d", "a").remarks, entry(table, "d", "b").remarks) == (("zero gradient",), ())


def test_an_attacks_own_remarks_are_shown_once(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("d", "a", [rec(i, flags=["gradients are zero"]) for i in range(4)])
    assert entry(summarise(read_run(maker.finish())), "d", "a").remarks == ("gradients are zero",)


def test_remarks_on_some_images_are_counted(maker: Any, rec: Callable[..., Record]) -> None:
    flags = ["found along bpda", "found along tanh", "found along bpda", "nothing found"]
    maker.cell("d", "a", [rec(i, flags=[flag]) for i, flag in enumerate(flags)])
    remarks = entry(summarise(read_run(maker.finish())), "d", "a").remarks
    assert remarks == ("2 images: found along bpda; 1 image: found along tanh; 1 image: nothing found",)


STOCHASTIC = {"single": (0.75, 0.75), "mean": (0.5, 0.75), "majority": (0.5, 0.75), "worst": (0.25, 0.5)}


@pytest.mark.parametrize("rule", list(STOCHASTIC))
def test_the_headline_rule_applies_to_robust_and_benign_images_alike(
    maker: Any, rec: Callable[..., Record], rule: str
) -> None:
    draws = [("rrr", "rrr"), ("rrr", "rww"), ("rrw", "rrw"), ("wwr", "www")]
    maker.cell("d", "a", [rec(i, *pair) for i, pair in enumerate(draws)], stochastic=True)
    table = summarise(read_run(maker.finish(votes=3, report={"vote": rule})))
    found = entry(table, "d", "a")
    assert found.estimate and found.benign
    assert (found.estimate.value, found.benign.value) == pytest.approx(STOCHASTIC[rule])
    assert value(table, "d", "clean") == pytest.approx(STOCHASTIC[rule][1])


def test_a_stochastic_defense_is_summarised_under_every_rule(maker: Any, rec: Callable[..., Record]) -> None:
    draws = [("rrr", "rrr"), ("rrr", "rww"), ("rrw", "rrw"), ("wwr", "www")]
    maker.cell("d", "a", [rec(i, *pair) for i, pair in enumerate(draws)], stochastic=True)
    row = summarise(read_run(maker.finish(votes=3))).rows[0]
    found = {rule: entries[1].estimate for rule, entries in row.by_rule.items()}
    assert {rule: estimate.value for rule, estimate in found.items() if estimate} == pytest.approx(
        {rule: robust for rule, (robust, _) in STOCHASTIC.items()}
    )


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(STOCHASTIC))
def test_the_worst_cases_baseline_is_clean_accuracy_by_the_same_rule(
    maker: Any, rec: Callable[..., Record], rule: str
) -> None:
    for attack in ("a", "b"):
        maker.cell("d", attack, [rec(i, ("rrr", "rww", "wrr", "www")[i], "rrr") for i in range(4)], stochastic=True)
    table = summarise(read_run(maker.finish(votes=3, report={**BOTH, "vote": rule})))
    clean = entry(table, "d", "clean").estimate
    assert clean and clean == entry(table, "d", "worst").benign == entry(table, "d", "average").benign


def test_the_worst_case_of_a_stochastic_defense_says_what_it_estimates(maker: Any, rec: Callable[..., Record]) -> None:
    for attack, adv in (("a", "rrw"), ("b", "wrr")):
        maker.cell("d", attack, [rec(i, "rrr", adv) for i in range(4)], stochastic=True)
    row = summarise(read_run(maker.finish(votes=3, report=BOTH))).rows[0]
    split, whole = row.by_rule["mean"][-1], row.by_rule["majority"][-1]
    assert split.estimate and split.estimate.value == pytest.approx(2 / 3)
    assert "the attack that an image's other draws choose" in split.remarks[0]
    assert whole.estimate and whole.estimate.value == 1
    assert "one majority of 3 draws cannot both choose the attack and judge it" in whole.remarks[0]


def test_one_vote_of_a_stochastic_defense_cannot_choose_and_judge(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("d", "a", [rec(i, "r", "rrww"[i]) for i in range(4)], stochastic=True)
    maker.cell("d", "b", [rec(i, "r", "wwrr"[i]) for i in range(4)], stochastic=True)
    found = entry(summarise(read_run(maker.finish(votes=1, report=BOTH))), "d", "worst")
    assert found.estimate and found.estimate.value == 0.5 and found.estimate.low == 0
    assert "one draw cannot both choose the attack and judge it" in found.remarks[0]


def test_clean_accuracy_prefers_a_pairing_in_which_the_defense_answered(
    maker: Any, rec: Callable[..., Record], column: Column
) -> None:
    maker.cell("d", "a", [rec(0, clean="", adv="", verdict="error"), *column("rrrr")[1:]])
    maker.cell("d", "b", column("rrrr", clean="rrrw"))
    found = entry(summarise(read_run(maker.finish())), "d", "clean")
    assert found.estimate and found.estimate.value == 1.0 and not found.remarks


def test_the_average_and_the_worst_of_one_attack_are_no_columns(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"))
    table = summarise(read_run(maker.finish(report={"average": ["a"], "worst": ["a"]})))
    assert [c.name for c in table.columns] == ["clean", "a"]
