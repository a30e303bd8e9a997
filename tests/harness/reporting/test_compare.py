from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.cli import main
from harness.errors import UserError
from harness.reporting.render import terminal
from harness.reporting.render.comparison_layout import lay_out
from harness.reporting.tables.comparison import Match, compare, contrast
from harness.reporting.tables.table import summarise
from harness.results.load import Run, read_run
from harness.results.manifest import Manifest
from harness.results.record import Record

Two = Callable[..., tuple[Run, Run]]


@pytest.fixture
def two(maker: Any, rec: Callable[..., Record], tmp_path: Path) -> Two:
    """Two runs of one cell, d under a, from a letter per image; `shift` and the manifest's changes go to the second."""

    def make(first: str, second: str, shift: int = 0, key: str = "k", **changes: Any) -> tuple[Run, Run]:
        runs = []
        for name, letters, moved, own in (("one", first, 0, {}), ("two", second, shift, {"key": key, **changes})):
            made = type(maker)(tmp_path / name, count=len(letters))
            made.cell(
                "d", "a", [rec(i + moved, "r", letter) for i, letter in enumerate(letters)], key=own.pop("key", "k")
            )
            runs.append(read_run(made.finish(**own)))
        return runs[0], runs[1]

    return make


def changed(run: Run, **changes: Any) -> Run:
    """With other words in its manifest."""
    return dataclasses.replace(run, manifest=Manifest.model_validate({**run.manifest.document(), **changes}))


def only(found: Any) -> Match:
    (match,) = found.matches
    return match  # type: ignore[no-any-return]


def test_cells_on_the_same_images_are_compared_image_by_image(two: Two) -> None:
    match = only(compare(*two("rrrrrrww", "rwwwwwrw")))
    assert match.same_images and match.robust is not None and match.clean is not None
    assert (match.robust.lost, match.robust.gained) == (5, 1)
    assert match.robust.value == pytest.approx(4 / 8) and match.robust.p == pytest.approx(2 * 7 / 64)
    assert match.clean.value == 0 and match.clean.p == 1


def test_the_images_that_both_have_are_compared_where_they_are_half_or_more(two: Two) -> None:
    match = only(compare(*two("rrrr", "wwww", shift=2)))
    assert match.same_images and match.robust is not None and match.robust.first.n == 2 and match.robust.lost == 2


def test_other_images_are_compared_without_pairs(two: Two) -> None:
    for runs in (
        two("rrrr", "wwwwww", shift=3),
        two("rrrr", "wwww", dataset={"name": "digits", "split": "train", "count": 4}),
        two("rrrr", "wwww", dataset={"name": "npz", "split": "test", "count": 4, "fingerprint": "g"}),
    ):
        match = only(compare(*runs))
        assert not match.same_images and match.robust is not None and match.robust.p is None
        assert match.robust.value == 1 and match.robust.low > 0 and not match.significant


def test_equal_keys_make_the_same_claim(two: Two) -> None:
    match = only(compare(*two("rr", "rr")))
    assert match.same_claim and match.differs == ()


def test_what_differs_is_said_where_the_keys_do(two: Two) -> None:
    def resolved(eps: str, sha256: str) -> dict[str, Any]:
        weights = {"name": "w", "sha256": sha256}
        return {
            "defenses": {"d": {"type": "x", "arguments": {"weights": weights}}},
            "cells": {"d/a": {"type": "pgd", "arguments": {"eps": eps}}},
        }

    one, two_ = two("rr", "rw", key="other", resolved=resolved("8/255", "abc"))
    one = changed(one, resolved={**one.manifest.document()["resolved"], **resolved("4/255", "def")})
    match = only(compare(one, two_))
    assert match.same_claim is False
    assert match.differs == (
        "defense.arguments.weights.sha256: def -> abc",
        "attack.arguments.eps: 4/255 -> 8/255",
    )


def test_keys_that_differ_for_no_visible_reason_blame_the_code(two: Two) -> None:
    (reason,) = only(compare(*two("rr", "rr", key="other"))).differs
    assert "code" in reason


def test_versions_and_hardware_are_told_apart_from_the_claim(two: Two) -> None:
    one, other = two("rr", "rr", sessions=[{"started": "now", "packages": {"torch": "2.12"}}])
    one = changed(one, sessions=[{"started": "then", "packages": {"torch": "2.11"}}])
    found = compare(one, other)
    assert found.environment == ("packages.torch: 2.11 -> 2.12",) and only(found).same_claim


def test_cells_of_one_side_are_named(maker: Any, column: Callable[..., list[Record]], tmp_path: Path) -> None:
    maker.cell("d", "a", column("rrrr"))
    maker.cell("old", "a", column("rrrr"))
    other = type(maker)(tmp_path / "other")
    other.cell("d", "a", column("rrrw"))
    other.cell("new", "a", [])
    found = compare(read_run(maker.finish()), read_run(other.finish()))
    assert found.only_first == (("old", "a"),) and found.only_second == (("new", "a"),)
    assert len(found.matches) == 1


def test_a_cell_without_images_yet_has_no_difference(two: Two) -> None:
    one, other = two("rr", "rr")
    cell = other.pairings["d", "a"]
    without = replace(cell, columns=cell.columns[:0], places=cell.places[:0])
    found = compare(one, replace(other, pairings={("d", "a"): without}))
    assert only(found).robust is None and only(found).clean is None
    sheet = lay_out(found)
    assert sheet.main and [shown.text for shown in sheet.main.lines[0]][3:] == ["–"] * 6
    assert sheet.notes[0] == "Images of each line: 0."


def test_runs_with_nothing_in_common_are_refused(maker: Any, column: Any, tmp_path: Path) -> None:
    maker.cell("d", "a", column("rrrr"))
    other = type(maker)(tmp_path / "other")
    other.cell("e", "a", column("rrrr"))
    with pytest.raises(UserError, match="no pairing of the same names"):
        compare(read_run(maker.finish()), read_run(other.finish()))


def test_a_cell_that_failed_is_not_compared(maker: Any, rec: Callable[..., Record], tmp_path: Path) -> None:
    maker.cell("d", "a", [rec(i) for i in range(4)])
    other = type(maker)(tmp_path / "other")
    other.cell("d", "a", [rec(i, adv="", verdict="error", error="x") for i in range(4)])
    found = compare(read_run(maker.finish()), read_run(other.finish()))
    match = only(found)
    assert match.robust is None and match.clean is None and match.failed == ("second",) and not match.significant
    sheet = lay_out(found)
    assert sheet.main and [shown.text for shown in sheet.main.lines[0]][3:] == ["–", "failed", "–", "–", "–", "–"]
    assert any("Not compared" in note and "d/a" in note for note in sheet.notes)


def test_images_that_ended_in_an_error_on_either_side_are_left_out_and_counted(
    maker: Any, rec: Callable[..., Record], tmp_path: Path
) -> None:
    runs = []
    for name, broken in (("one", 3), ("two", 7)):
        made = type(maker)(tmp_path / name, count=40)
        records = [rec(i, adv="w" if i < 20 else "r") for i in range(40)]
        records[broken] = rec(broken, adv="", verdict="error", error="x")
        made.cell("d", "a", records)
        runs.append(read_run(made.finish()))
    found = compare(*runs)
    match = only(found)
    assert match.errors == 2 and match.robust is not None and match.clean is not None
    assert match.robust.first.n == 38 and match.robust.first.value == match.robust.second.value == 20 / 38
    assert (match.robust.lost, match.robust.gained, match.clean.first.n) == (0, 0, 40)
    assert any("Left out: 2 images" in note for note in lay_out(found).notes)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["single", "mean", "majority", "worst"])
def test_a_comparison_and_the_table_say_the_same_of_every_cell(
    maker: Any, rec: Callable[..., Record], rule: str
) -> None:
    maker.count = 8
    maker.cell("one", "a", [rec(i, "rrr", ("rrr", "rwr", "wwr", "www")[i % 4]) for i in range(8)], stochastic=True)
    maker.cell("two", "a", [rec(i, "rwr", ("wrr", "rww", "wwr", "www")[i % 4]) for i in range(8)], stochastic=True)
    run = read_run(maker.finish(votes=3, report={"vote": rule}))
    match = only(contrast(run))
    tabled = [row.entries[1].estimate for row in summarise(run).rows]
    assert match.robust is not None and [match.robust.first, match.robust.second] == tabled
    assert match.robust.p is not None
    words = f"by {'single draw' if rule == 'single' else f'{rule} of 3 draws'}"
    assert any(words in note for note in lay_out(contrast(run)).notes)


def test_a_second_run_is_judged_by_the_rule_of_the_first_and_it_is_said(
    maker: Any, rec: Callable[..., Record], tmp_path: Path
) -> None:
    runs = []
    for name, vote in (("one", "mean"), ("two", "worst")):
        made = type(maker)(tmp_path / name)
        made.cell("d", "a", [rec(i, "rrr", "rrw") for i in range(4)], stochastic=True)
        runs.append(read_run(made.finish(votes=3, report={"vote": vote})))
    found = compare(*runs)
    match = only(found)
    assert match.robust is not None and match.robust.first.value == match.robust.second.value == pytest.approx(2 / 3)
    assert "B's own table counts by worst of 3 draws where a defense is stochastic." in lay_out(found).notes


def test_the_defenses_of_one_run_are_compared_under_each_attack(maker: Any, column: Any) -> None:
    maker.count = 8
    for attack in ("a", "b"):
        maker.cell("weak", attack, column("w" * 8))
        maker.cell("strong", attack, column("r" * 8))
    maker.cell("lone", "c", column("r" * 8))
    found = contrast(read_run(maker.finish()))
    assert [(m.first, m.second) for m in found.matches] == [
        (("weak", "a"), ("strong", "a")),
        (("weak", "b"), ("strong", "b")),
    ]
    assert all(m.significant and m.same_claim is None and m.robust and m.robust.value == -1 for m in found.matches)


def test_one_run_without_two_defenses_under_an_attack_is_refused(
    maker: Any, column: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    maker.cell("d", "a", column("rrrr"))
    call("compare", str(maker.finish()), status=2)
    assert "no attack that ran on two defenses" in " ".join(capsys.readouterr().err.split())


def test_the_table_shows_differences_with_intervals_and_says_what_they_mean(two: Two) -> None:
    sink = io.StringIO()
    sheet = lay_out(compare(*two("rrrrrrrr", "wwwwwwwr", key="other")))
    Console(file=sink, width=120).print(terminal.render([sheet]))
    shown = sink.getvalue()
    line = next(line for line in shown.splitlines() if line.startswith("d "))
    assert line.split() == ["d", "a", "differs", "100.0", "12.5", "+87.5", "7,", "0", "0.016", "*", "0.0"]
    for words in ("McNemar", "Holm", "Newcombe", "d/a differ by"):
        assert words in shown


def call(*arguments: str, status: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == status


def test_a_run_beside_itself_makes_the_same_claims(two: Two) -> None:
    one, _ = two("rrww", "rr")
    sheet = lay_out(compare(one, one))
    assert sheet.main and [shown.text for shown in sheet.main.lines[0]][:3] == ["d", "a", "same"]


@pytest.mark.long
def test_the_command_works_in_a_process_of_its_own(two: Two) -> None:
    """Nothing that another command imports must have been imported before."""
    one, other = (str(run.path) for run in two("rr", "rw"))
    code = "import sys; from harness.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "compare", one, other], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_prints_a_table_markdown_or_json(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (str(run.path) for run in two("rrrr", "rrww"))
    call("compare", one, other)
    assert "same claim" in " ".join(capsys.readouterr().out.split())
    call("compare", one, other, "--format", "md")
    assert "| d | a | same | 100.0 | 50.0 |" in capsys.readouterr().out
    call("compare", one, other, "--format", "json")
    found = json.loads(capsys.readouterr().out)
    assert found["matches"][0]["robust"]["lost"] == 2
