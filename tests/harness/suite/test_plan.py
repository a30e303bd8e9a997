"""A suite is checked in full, and says all that decides results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import UserError
from harness.quantity import Quantity
from harness.threat import L2, Linf
from harness.weights import packaged
from helpers.planned import SUITE, changed, plan, refusal, typed


def test_cells_come_defense_by_defense_in_the_order_of_the_file(folder: Path) -> None:
    cells = plan(folder).cells
    assert [(c.defense.name, c.attack.name) for c in cells] == [("plain", "linf"), ("plain", "l2"), ("typed", "linf")]


def test_without_pairings_all_meet_all(folder: Path) -> None:
    start, end = SUITE.index("pairings:"), SUITE.index("report:")
    cells = plan(folder, SUITE[:start] + SUITE[end:]).cells
    assert [(c.defense.name, c.attack.name) for c in cells] == [
        (defense, attack) for defense in ("plain", "typed") for attack in ("linf", "l2")
    ]


def test_defaults_lie_under_every_entry_and_overrides_over_one_pairing(folder: Path) -> None:
    text = changed("    eps: 8/255\n", "    eps: 8/255\n    steps: null\n")
    steps = {f"{c.defense.name}/{c.attack.name}": c.attack.arguments["steps"] for c in plan(folder, text).cells}
    assert steps == {"plain/linf": 1, "plain/l2": 9, "typed/linf": 1}


def test_arguments_are_typed_and_defaults_are_filled_in(folder: Path) -> None:
    cell = plan(folder).cells[-1]
    assert cell.defense.arguments == {
        "count": 3,
        "rate": 0.1,
        "flag": False,
        "word": "w",
        "mode": "slow",
        "which": "all",
        "pair": (1, 2.0),
        "table": None,
        "file": None,
        "files": (),
        "weights": None,
        "eta": None,
        "free": None,
        "callback": None,
    }
    assert isinstance(cell.attack.arguments["eps"], Quantity) and cell.attack.arguments["eps"].text == "8/255"
    assert cell.attack.build().threat == Linf(Quantity("8/255"))
    assert (cell.defense.label, plan(folder).cells[0].defense.label) == (None, "Nothing")


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("rate: 2", "rate", 2.0),
        ("flag: true", "flag", True),
        ("which: 7", "which", 7),
        ("which: [1, 2]", "which", [1, 2]),
        ("pair: [3, 4]", "pair", (3, 4.0)),
        ("table: {a: 1, b: 2.5}", "table", {"a": 1.0, "b": 2.5}),
        ("eta: 8/255", "eta", 8 / 255),
        ("free: {x: [1, off]}", "free", {"x": [1, "off"]}),
        ("word: off", "word", "off"),
    ],
)
def test_each_type_takes_what_yaml_says(folder: Path, written: str, name: str, value: object) -> None:
    found = typed(folder, written)[name]
    assert found == value and isinstance(found, type(value))


def test_paths_start_from_the_file_they_are_written_in(folder: Path) -> None:
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "base.yaml").write_text(SUITE.replace("./fakes", "../fakes").replace("rate: 1e-1", "file: a/b"))
    found = plan(folder, "extends: base/base.yaml\ndefenses: {typed: {files: [c, /d]}}\n")
    defense = found.cells[-1].defense
    assert defense.arguments["file"] == folder / "base" / "a" / "b"
    assert defense.arguments["files"] == [folder / "c", Path("/d")]
    assert found.resolved()["dataset"]["size"] == 12
    assert defense.resolved()["files"][0] == "c" and defense.resolved()["file"] == "base/a/b"


def test_checkpoints_are_recorded_with_their_hash(folder: Path) -> None:
    name = next(iter(packaged()))
    defense = plan(folder, changed("rate: 1e-1", f"weights: {name}")).cells[-1].defense
    assert defense.resolved()["weights"]["name"] == name and len(defense.resolved()["weights"]["sha256"]) == 64


def test_the_resolved_suite_is_json_and_says_only_what_decides_results(folder: Path) -> None:
    text = changed("typed, plain", "plain").replace("    <<: *typed\n    rate: 1e-1\n", "    type: ./fakes.py:Plain\n")
    found = plan(folder, text)
    assert json.loads(json.dumps(found.resolved())) == yaml.safe_load(yaml.safe_dump(found.resolved()))
    assert found.resolved() == {
        "suite": "small",
        "dataset": {"name": "digits", "split": "test", "size": 12, "seed": 0},
        "protocol": {"votes": 2, "seed": 0, "shard": 4, "gates": "off"},
        "defenses": {"plain": {"type": "./fakes.py:Plain", "arguments": {}}},
        "cells": {
            "plain/linf": {"type": "./fakes.py:Ball", "arguments": {"norm": "Linf", "eps": "8/255", "steps": 2}},
            "plain/l2": {"type": "./fakes.py:Ball", "arguments": {"norm": "L2", "eps": "0.5", "steps": 9}},
        },
    }
    other = text.replace("shard: 4", "shard: 4, batch_size: 1").replace("A small", "Another").replace("Nothing", "None")
    assert plan(folder, other).resolved() == found.resolved()
    assert plan(folder, other).presentation() != found.presentation()
    assert plan(folder, text, only="plain/l2").resolved() == found.resolved()
    assert plan(folder, text, limit=5).resolved()["dataset"]["limit"] == 5


def test_a_default_that_is_not_data_cannot_be_recorded(folder: Path) -> None:
    defense = plan(folder, changed("./fakes.py:Plain", "./fakes.py:Badge")).cells[0].defense
    with pytest.raises(UserError, match=r"suite\.yaml:12: 'badge' of defense 'plain' is .* cannot be written"):
        defense.resolved()


def test_another_type_in_a_pairing_keeps_only_the_budget(folder: Path) -> None:
    def first(overrides: str) -> Any:
        return plan(folder, changed("    with: {steps: 9}", f"    with: {overrides}")).cells[1].attack

    other = first("{type: ./fakes.py:Ball}")
    assert other.arguments == {"norm": "L2", "eps": 0.5, "steps": 1} and other.build().threat == L2(Quantity("0.5"))
    assert first("{type: ./fakes.py:Ball, eps: 0.25}").arguments["eps"] == 0.25
    assert first("{type: ./fakes.py:Warp}").arguments == {"bound": 0.05}
    assert first("{}").arguments["steps"] == 2
    assert first("{steps: null}").arguments["steps"] == 1


def test_only_keeps_a_row_or_a_cell(folder: Path) -> None:
    assert [c.attack.name for c in plan(folder, only="plain").cells] == ["linf", "l2"]
    assert [c.attack.name for c in plan(folder, only="plain/l2").cells] == ["l2"]
    assert "no defense 'plan'. Did you mean 'plain'?" in refusal(folder, SUITE, only="plan")
    assert "no attack 'linv'. Did you mean 'linf'?" in refusal(folder, SUITE, only="plain/linv")
    assert "no pairing typed/l2" in refusal(folder, SUITE, only="typed/l2")


def test_several_choices_add_up_in_the_order_of_the_suite(folder: Path) -> None:
    cells = [(c.defense.name, c.attack.name) for c in plan(folder, only=["plain/l2", "typed", "typed/linf"]).cells]
    assert cells == [("plain", "l2"), ("typed", "linf")]
    assert plan(folder, only=("plain", "typed")).cells == plan(folder).cells
    assert "no pairing typed/l2" in refusal(folder, SUITE, only=["plain", "typed/l2"])
    assert "no pairing is chosen" in refusal(folder, SUITE, only=[])


def test_the_report_has_all_attacks_unless_it_says_otherwise(folder: Path) -> None:
    report = plan(folder, changed("report:\n  average: [linf, l2]\n", "")).suite.report
    assert report.average == report.worst == ("linf", "l2")
    report = plan(folder, changed("[linf, l2]\n", "[l2]\n")).suite.report
    assert report.average == report.worst == ("l2",)


def test_a_group_of_rows_names_defenses_of_the_suite_and_each_once(folder: Path) -> None:
    def grouped(groups: str) -> str:
        return changed("report:\n  average: [linf, l2]\n", f"report:\n  groups: {groups}\n")

    assert plan(folder, grouped("{Ours: [plain]}")).suite.report.groups == {"Ours": ("plain",)}
    assert "no defense 'plan'. Did you mean 'plain'?" in refusal(folder, grouped("{Ours: [plan]}"))
    assert "'plain' is in the groups 'A' and 'B'" in refusal(folder, grouped("{A: [plain], B: [plain]}"))


def test_a_title_may_be_folded_and_in_any_script(folder: Path) -> None:
    text = changed("title: A small suite", "title: >\n  Ölβ ε∞\n  中文 é")
    assert plan(folder, text).suite.title == "Ölβ ε∞ 中文 é"


def test_empty_sections_are_as_good_as_none(folder: Path) -> None:
    text = changed("report:\n  average: [linf, l2]\n", "report:\n")
    assert plan(folder, text).suite.report.vote == "mean"
    assert "needs 'dataset'" in refusal(folder, changed("dataset: {name: digits, split: test, size: 12}", "dataset:"))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("first: 3", [0, 1, 2]), ("indices: [7, 2]", [7, 2]), ("first: 9, limit: 2", [0, 1]), ("split: test", None)],
)
def test_images_are_chosen_as_the_suite_says(folder: Path, choice: str, expected: list[int] | None) -> None:
    text = changed("split: test, size: 12", choice)
    assert plan(folder, text).suite.dataset.choose(20) == (expected or list(range(20)))


def test_a_random_choice_repeats_has_no_duplicates_and_grows_from_its_start(folder: Path) -> None:
    chosen = plan(folder).suite.dataset.choose(500)
    assert len(set(chosen)) == 12 and max(chosen) < 500
    assert plan(folder, limit=5).suite.dataset.choose(500) == chosen[:5]
    assert plan(folder, changed("size: 12", "size: 40")).suite.dataset.choose(500)[:12] == chosen
    assert plan(folder, changed("size: 12", "size: 12, seed: 1")).suite.dataset.choose(500) != chosen
