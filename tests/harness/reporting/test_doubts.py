"""A number whose attack is known to have been too weak is marked on itself, in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.guard.doubt import in_doubt
from harness.reporting import report, summarise
from harness.reporting.render import markdown
from harness.reporting.render.comparison_layout import lay_out
from harness.reporting.tables.comparison import compare, contrast
from harness.reporting.tables.doubts import doubts
from harness.results.diagnosis import Strengths
from harness.results.load import read_run
from harness.results.record import Record

DC = {"type": "dc", "arguments": {"timesteps": 10}}
RHO = 2.0
"""Noise to signal, so that two draws have a cosine of 1/3."""


def climb(**arguments: Any) -> dict[str, Any]:
    return {"type": "pgd", "arguments": {"gradient": "exact", "eot": 1, "steps": 20, **arguments}}


def diagnosis(root: Path, *, gradient: str = "exact", draws: int = 4, **changes: Any) -> None:
    """Beside the run: DC's gradients of so many draws have the cosine that RHO gives them."""
    cosine = 1 / (1 + RHO / draws)
    measured = {"images": 32, "undefined": 0, "cosine": {str(draws): cosine}, "interval": {str(draws): [0, 1]}}
    content = {
        **{"schema_version": 2, "harness": "0.1.0", "key": "k", "suite": "tiny", "defense": "dc", "label": None},
        **{"attack": "linf", "threat": "Linf 8/255", "surrogate": None, "images": 32, "resolved": DC},
        **{"settings": {"gradient": gradient}, "finished": True},
        "findings": [{"name": "gradient randomness", "status": "passed", "message": "m", "data": measured}],
        **changes,
    }
    path = root / "diagnose" / "dc.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))


def strengths(name: str, counts: list[int], success: list[float]) -> dict[str, Any]:
    data = {"images": 32, name: counts, "success": {str(n): s for n, s in zip(counts, success, strict=True)}}
    return {"name": f"more {name}", "status": "warned", "message": "misclassified: more and more", "data": data}


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record]) -> Callable[..., Path]:
    """DC under attacks with these arguments and facts, four images each, half of them robust."""

    def made(attacks: dict[str, dict[str, Any]], parts: dict[str, Any] | None = None, **changes: Any) -> Path:
        for name, facts in attacks.items():
            records = facts.pop("records", [rec(i, "rr", "rr" if i < 2 else "ww") for i in range(4)])
            maker.cell("dc", name, records, stochastic=True, **facts)
        cells = {f"dc/{name}": part for name, part in (parts or {name: climb() for name in attacks}).items()}
        resolved = {"defenses": {"dc": DC}, "cells": cells, "suite": changes.get("suite", "tiny")}
        maker.defenses["dc"]["type"] = "dc"
        root: Path = maker.finish(votes=2, resolved=resolved, **changes)
        return root

    return made


def shown(root: Path, format: str) -> str:
    found = report(root, format)
    if isinstance(found, str):
        return found
    sink = io.StringIO()
    Console(file=sink, width=150).print(found)
    return sink.getvalue()


def test_an_attack_is_in_doubt_below_the_cosine_that_it_needs_and_not_above(run: Callable[..., Path]) -> None:
    root = run({"apgd": {"least_cosine": 0.9}, "momentum": {"least_cosine": 0.09}, "old": {}})
    diagnosis(root)
    found = doubts(read_run(root))
    assert list(found) == [("dc", "apgd")]
    (told,) = found["dc", "apgd"]
    assert "two draws have a cosine of 0.33 (32 images), and it needs 0.90" in told


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_the_cosine_of_single_draws_follows_from_that_of_any_number(run: Callable[..., Path], draws: int) -> None:
    root = run({"linf": {"least_cosine": 0.34}})
    diagnosis(root, draws=draws)
    assert "a cosine of 0.33" in doubts(read_run(root))["dc", "linf"][0]


def measured(cosine: float, **facts: Any) -> dict[str, Any]:
    """Facts of a pairing whose gradients the run itself measured."""
    return {"gradient_noise": {"cosine": cosine, "images": 8}, **facts}


def test_what_the_run_measured_goes_before_what_a_diagnosis_did(run: Callable[..., Path]) -> None:
    root = run({"noisy": measured(0.2, least_cosine=0.3), "clear": measured(0.4, least_cosine=0.35)})
    diagnosis(root)
    found = doubts(read_run(root))
    assert list(found) == [("dc", "noisy")]
    assert found["dc", "noisy"][0].endswith("two draws have a cosine of 0.20 (8 images), and it needs 0.30")


def test_a_number_of_zero_cannot_be_lower_and_is_never_in_doubt(
    run: Callable[..., Path], rec: Callable[..., Record]
) -> None:
    root = run({"linf": measured(0.2, least_cosine=0.9, records=[rec(i, "rr", "ww") for i in range(4)])})
    assert not doubts(read_run(root))


@pytest.mark.parametrize(
    ("enough", "left", "marked"),
    [(0.3, 20, False), (0.5, 20, True), (0.3, 10, True)],
    ids=["settled", "as noisy at the end", "still falling"],
)
def test_a_number_that_is_settled_in_draws_keeps_no_mark(
    maker: Any,
    run: Callable[..., Path],
    rec: Callable[..., Record],
    enough: float,
    left: int,
    marked: bool,
) -> None:
    """One draw is too few for gradients of cosine 0.4, but ten, which may or may not be enough, find nothing more."""
    maker.count = maker.shard = 200
    attacks = {
        f"linf.eot-{draws}": measured(
            0.4, least_cosine=least, records=[rec(i, "rr", "rr" if i < 10 * stand else "ww") for i in range(200)]
        )
        for draws, least, stand in ((1, 0.9, 20), (10, enough, left))
    }
    found = doubts(read_run(run(attacks, sweeps=[sweep(1, 10)])))
    assert (("dc", "linf.eot-1") in found) is marked


def test_a_diagnosis_of_another_view_or_another_defense_says_nothing(run: Callable[..., Path]) -> None:
    root = run({"linf": {"least_cosine": 0.9}})
    diagnosis(root, gradient="bpda")
    assert not doubts(read_run(root))
    (root / "diagnose/dc.json").unlink()
    (root / "diagnose").rmdir()
    diagnosis(root, resolved={**DC, "arguments": {"timesteps": 20}})
    assert not doubts(read_run(root))


def test_noise_is_no_matter_to_an_attack_that_takes_no_gradient(
    run: Callable[..., Path], rec: Callable[..., Record]
) -> None:
    root = run({"noise": {"least_cosine": 0.64, "records": [rec(i, "rr", "rr", backwards=0) for i in range(4)]}})
    diagnosis(root)
    assert not doubts(read_run(root))


def test_an_attack_inside_another_counts_by_its_own_view(run: Callable[..., Path]) -> None:
    nested = {"type": "worst_of", "arguments": {"attacks": [{"type": "pgd", "gradient": "exact"}]}}
    root = run({"worst": {"least_cosine": 0.9}}, {"worst": nested})
    diagnosis(root)
    assert list(doubts(read_run(root))) == [("dc", "worst")]


@pytest.mark.parametrize(("name", "what"), [("eot", "draws"), ("steps", "steps")])
def test_what_a_diagnosis_found_with_more_than_the_attack_took_is_a_doubt(
    run: Callable[..., Path], name: str, what: str
) -> None:
    parts = {"few": climb(**{name: 2}), "many": climb(**{name: 4}), "l2": climb(**{name: 2})}
    root = run({"few": {}, "many": {}, "l2": {"threat": "L2 0.5"}}, parts)
    diagnosis(root, findings=[strengths(name, [1, 2, 4], [0.2, 0.4, 0.6])])
    found = doubts(read_run(root))
    assert list(found) == [("dc", "few")]
    assert found["dc", "few"] == (f"more {what} than its 2 fool more images (misclassified: more and more)",)


def test_success_rises_only_where_it_leads_by_more_than_luck() -> None:
    shares: dict[str, Any] = {"images": 20, "success": {"1": 0.2, "2": 0.2, "4": 0.25}}
    assert not Strengths(**shares).rising
    assert Strengths(**{**shares, "success": {"1": 0.2, "2": 0.2, "4": 0.3}}).rising
    assert not Strengths(**{**shares, "success": {"1": 0.2, "2": 0.5, "4": 0.5}}).rising


def test_a_remark_of_the_attack_marks_its_number_and_is_told_without_its_beginning(
    run: Callable[..., Path], rec: Callable[..., Record]
) -> None:
    records = [rec(i, "rr", "rr", flags=[in_doubt("no gradient"), "projected"]) for i in range(4)]
    root = run({"linf": {"records": records}})
    entry = summarise(read_run(root)).rows[0].entries[1]
    assert entry.doubts == ("no gradient",) and entry.remarks == ("no gradient", "projected")


def swept(rec: Callable[..., Record], eot: dict[int, int]) -> dict[str, dict[str, Any]]:
    """Attacks by draws, that leave so many of 20 images robust."""
    return {
        f"linf.eot-{draws}": {"records": [rec(i, "rr", "rr" if i < left else "ww") for i in range(20)]}
        for draws, left in eot.items()
    }


def sweep(*draws: int) -> dict[str, Any]:
    variants = {f"linf.eot-{count}": [count] for count in draws}
    return {"kind": "attacks", "name": "linf", "label": "linf", "paths": ["eot"], "variants": variants}


def test_the_points_of_a_sweep_from_which_accuracy_still_falls_are_in_doubt(
    maker: Any, run: Callable[..., Path], rec: Callable[..., Record]
) -> None:
    maker.count = 20
    found = doubts(read_run(run(swept(rec, {1: 20, 5: 10, 10: 10}), sweeps=[sweep(1, 5, 10)])))
    assert list(found) == [("dc", "linf.eot-1")]
    assert found["dc", "linf.eot-1"][0].startswith("not settled in draws: from 1 to 10 draws, robust accuracy fell by")


@pytest.mark.parametrize(("own", "steps", "marked"), [(1, 20, True), (3, 20, True), (10, 20, False), (1, 40, False)])
def test_the_curve_of_harness_eot_speaks_of_the_same_attack_in_the_folder_beside_it(
    tmp_path: Path, maker: Any, run: Callable[..., Path], rec: Callable[..., Record], own: int, steps: int, marked: bool
) -> None:
    maker.count, maker.root = 20, tmp_path / "tiny-eot-dc-linf"
    parts = {f"linf.eot-{draws}": climb(eot=draws, steps=steps) for draws in (1, 10)}
    name = "tiny-eot-dc-linf"
    run(swept(rec, {1: 20, 10: 10}), parts, sweeps=[sweep(1, 10)], suite=name)
    manifest = json.loads((maker.root / "run.json").read_text())
    other = type(maker)(tmp_path / "tiny", 20)
    other.cell("dc", "linf", [rec(i, "rr", "rr") for i in range(20)], stochastic=True)
    other.defenses["dc"]["type"] = "dc"
    root = other.finish(votes=2, resolved={"defenses": {"dc": DC}, "cells": {"dc/linf": climb(eot=own)}})
    assert manifest["suite"] == name
    assert (("dc", "linf") in doubts(read_run(root))) is marked


@pytest.fixture
def marked(run: Callable[..., Path]) -> Path:
    """One number in doubt and one that is none, of two budgets; a third of the first budget that is none."""
    attacks = {
        "weak": {"least_cosine": 0.9},
        "strong": {"least_cosine": 0.1},
        "l2": {"least_cosine": 0.9, "threat": "L2 0.5"},
    }
    root = run(attacks, report={"average": ["weak", "strong"], "worst": ["weak", "strong"]})
    diagnosis(root)
    return root


@pytest.mark.parametrize("format", ["table", "md", "latex", "html"])
def test_every_readable_format_marks_the_number_and_says_why(marked: Path, format: str) -> None:
    text = shown(marked, format)
    assert "50.0?" in text and "gradients too noisy for this attack" in " ".join(text.split())
    assert "?: in doubt, for the reason in its footnote" in " ".join(text.split())


def test_data_name_the_doubt_beside_the_number(marked: Path) -> None:
    read = csv.DictReader(io.StringIO(shown(marked, "csv")))
    rows = {row["column_label"]: row for row in read if row["headline"] == "True"}
    assert "gradients too noisy" in rows["weak"]["doubt"] and "gradients too noisy" in rows["weak"]["flags"]
    assert rows["strong"]["doubt"] == "" == rows["Clean"]["doubt"]
    lines = json.loads(shown(marked, "json"))["runs"][0]["lines"]
    attacked = [line for line in lines if line["kind"] == "attack" and line["headline"]]
    assert [bool(line["doubt"]) for line in attacked] == [True, False, True]


def test_a_mean_is_in_doubt_with_any_part_and_a_worst_case_where_a_budget_has_no_other(marked: Path) -> None:
    (row,) = summarise(read_run(marked)).rows
    *_, average, worst = row.entries
    assert average.doubts == ("in doubt, since weak is",) and not worst.doubts
    manifest = json.loads((marked / "run.json").read_text())
    manifest["report"]["worst"] = ["strong", "l2"]
    manifest.pop("seal", None)
    (marked / "run.json").write_text(json.dumps(manifest))
    assert summarise(read_run(marked)).rows[0].entries[-1].doubts == ("in doubt, since l2 is",)


@pytest.mark.parametrize(("robust", "doubted"), [(1, True), (2, False), (3, False)])
def test_a_worst_case_needs_a_good_attack_that_leaves_no_more_than_the_doubted_one(
    robust: int, doubted: bool, run: Callable[..., Path], rec: Callable[..., Record]
) -> None:
    records = [rec(i, "rr", "rr" if i < robust else "ww") for i in range(4)]
    attacks = {"weak": {"least_cosine": 0.9, "records": records}, "strong": {"least_cosine": 0.1}}  # leaves two
    root = run(attacks, report={"worst": ["weak", "strong"]})
    diagnosis(root)
    worst = summarise(read_run(root)).rows[0].entries[-1]
    assert worst.doubts == (("in doubt, since weak is",) if doubted else ())


def test_a_number_in_doubt_is_marked_in_comparisons(marked: Path) -> None:
    run = read_run(marked)
    matches = {match.first[1]: match.doubted for match in compare(run, run).matches}
    assert matches == {"weak": ("first", "second"), "strong": (), "l2": ("first", "second")}
    text = markdown.render([lay_out(compare(run, run))])
    assert "50.0?" in text and "?: in doubt" in text
    assert not contrast(run).matches


def test_a_table_without_doubts_has_no_mark_and_no_note(run: Callable[..., Path]) -> None:
    text = shown(run({"linf": {"least_cosine": 0.9}}), "md")
    assert "?" not in text
