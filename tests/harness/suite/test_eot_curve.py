"""`harness eot` varies nothing but `eot`, refuses where that would mean nothing, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cli
from harness.errors import UserError
from harness.suite import load_suite
from harness.suite.cell_key import component_hash
from harness.suite.eot_curve import plan


@pytest.fixture
def suite(small_suite: Path) -> Path:
    """The small suite with an attack that asks several draws, and a pairing that changes it."""
    text = small_suite.read_text().replace("first: 10", "first: 6")
    text += "  several: {type: noise, norm: Linf, eps: 0.9, tries: 2, label: Several}\n"
    text += "pairings:\n  - {defense: noisy, attack: several, with: {eps: 0.5, eot: 7}}\n"
    text += "  - {defense: plain, attack: [several, weak]}\n  - {defense: noisy, attack: [weak, strong]}\n"
    small_suite.write_text(text)
    return small_suite


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


def test_everything_but_eot_stays_as_the_pairing_has_it(suite: Path) -> None:
    found = plan(suite, "noisy/several", [3, 1])
    assert found.suite.suite == "small-eot-noisy-several"
    assert [cell.attack.name for cell in found.cells] == ["several.eot-1", "several.eot-3"]
    (own,) = load_suite(suite, only="noisy/several").cells
    for cell in found.cells:
        assert cell.attack.arguments | {"eot": 7} == own.attack.arguments
        assert component_hash(cell.defense) == component_hash(own.defense)
    assert found.suite.protocol == load_suite(suite).suite.protocol


def test_a_variant_of_a_sweep_can_be_looked_at(suite: Path) -> None:
    suite.write_text(suite.read_text() + "sweep: {defense.noisy.strength: [1, 2], attack.several.tries: [2, 3]}\n")
    found = plan(suite, "noisy.strength-2/several.tries-3", [1, 2])
    assert [(c.defense.arguments["strength"], c.attack.arguments["tries"]) for c in found.cells] == [(2, 3)] * 2
    with pytest.raises(UserError, match=r"Set --only to one of: noisy\.strength-1/several\.tries-2, "):
        plan(suite, "noisy/several")


@pytest.mark.parametrize(
    ("only", "draws", "told"),
    [
        (None, [1, 5], r"--only to one of: plain/weak, plain/several, noisy/weak"),
        ("noisy", [1, 5], r"--only to one of: noisy/weak, noisy/strong, noisy/several"),
        ("noisy/sevral", [1, 5], r"no attack 'sevral'. Did you mean 'several'"),
        ("noisy/weak", [1, 5], r"small\.yaml:9: attack 'weak' has no argument 'eot'"),
        ("plain/several", [1, 5], r"small\.yaml:6: defense 'plain' is deterministic"),
        ("noisy/several", [5, 5], r"two or more"),
        ("noisy/several", [0, 5], r"two or more"),
    ],
)
def test_what_would_mean_nothing_is_refused(suite: Path, only: str | None, draws: list[int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        plan(suite, only, draws)


def test_an_attack_that_needs_more_draws_is_refused_before_it_runs(suite: Path) -> None:
    text = suite.read_text().replace(
        "type: noise, norm: Linf, eps: 0.9, tries: 2", "type: autoattack, norm: Linf, eps: 0.1"
    )
    suite.write_text(text.replace("with: {eps: 0.5, eot: 7}", "with: {version: rand}"))
    with pytest.raises(UserError, match=r"attack 'several' with eot 1 does not fit .*from --draws"):
        plan(suite, "noisy/several", [1, 20])


@pytest.mark.slow
def test_the_command_prints_the_curve_and_adds_to_it(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(suite.parent)
    command = ["eot", suite.name, "--only", "noisy/several", "--limit", "4"]
    assert call(*command, "--draws", "1,2") == 0
    shown = capsys.readouterr().out
    out = Path("results/small-eot-noisy-several-first4")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert len(before) == 2
    assert call("report", str(out)) == 0
    report = capsys.readouterr().out
    assert report.strip() in shown and "noisy under Several, by eot" in report
    assert "from EOT 1 to 2, robust accuracy" in report
    assert call(*command, "--draws", "1,2,4") == 0
    assert "from EOT 2 to 4" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert len(after) == 3 and before.items() <= after.items()
    assert call("report", str(out), "--format", "json") == 0
    (curve,) = json.loads(capsys.readouterr().out)["runs"][0]["curves"]
    assert [point["values"] for point in curve["points"]] == [[1], [2], [4]] and curve["verdict"]["kind"] == "open"
    assert call(*command, "--draws", "1,x") == 2
