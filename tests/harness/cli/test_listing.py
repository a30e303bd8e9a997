"""`harness list`: what there is to name, and what the arguments of one mean."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness import cli
from harness.cli.listing import listing, meaning_of
from harness.config.registry import entries


def printed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["list", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["defenses", "attacks", "certificates", "datasets", "trainers"])
def test_every_argument_of_everything_built_in_has_a_meaning_that_is_no_mere_reference(kind: str) -> None:
    for entry in entries(kind):
        for parameter in entry.parameters:
            meaning = meaning_of(parameter)
            assert len(meaning) > 10, f"{entry.name}, {parameter.name}: {meaning!r}"
            assert not re.match(r"as (for|in) `", meaning), f"{entry.name}, {parameter.name}: {meaning!r}"


def test_recipes_are_listed_with_what_they_train_and_are_no_suites(capsys: pytest.CaptureFixture[str]) -> None:
    recipes = {row["name"]: row["summary"] for row in listing("recipes")}
    assert recipes["suites/train/digits-cnn.yaml"] == "plain CNN on the digits"
    assert all(recipes.values()) and not recipes.keys() & {row["name"] for row in listing("suites")}
    assert "harness train RECIPE" in " ".join(printed("recipes", capsys=capsys).split())
    with pytest.raises(SystemExit):
        cli.main(["list", "recipes", "digits-cnn"])
    assert "explains no single one" in capsys.readouterr().err


def test_a_file_that_is_no_recipe_is_told_in_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suites/train").mkdir(parents=True)
    for name, text in {"broken": "{", "list": "[1]", "bare": "card: 3"}.items():
        (tmp_path / f"suites/train/{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert {row["summary"] for row in listing("recipes")} == {"not a recipe: YAML cannot be read"}
    assert listing("suites") == []


def test_a_kind_may_be_named_in_the_singular(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed("attack", capsys=capsys) == printed("attacks", capsys=capsys)


def test_one_attack_is_explained_with_meaning_default_and_publication(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = printed("attacks", "pgd", capsys=capsys)
    assert "Madry et al., 2018" in shown
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert re.search(r"eps +required +the budget", rows["eps"])
    assert re.search(r"steps +40 +gradient steps of one restart", rows["steps"])
    assert shown.rstrip().endswith("Class attacks.pgd.PGD")


def test_an_alias_says_what_it_stands_for(capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads(printed("attacks", "pgd80_eot10", "--json", capsys=capsys))
    assert "`pgd` with steps: 80; eot: 10" in about["about"]
    assert "steps" not in [argument["name"] for argument in about["arguments"]]


def test_every_line_laid_out_by_hand_stays_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = printed("attacks", "pgd", capsys=capsys)
    assert (
        "x_{i+1} = project(x_i + step_i * steepest(m_{i+1}))        steepest: sign for Linf, m / ||m||_2 for L2"
        in shown
    )
