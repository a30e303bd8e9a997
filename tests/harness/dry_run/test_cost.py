"""What `harness show` says a suite will cost."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from harness.cli import main
from harness.cli.show import _cost_table
from harness.dry_run import cost
from harness.dry_run.cost import CellCost, estimate, hours, materialise, speeds
from harness.dry_run.meta_checkpoints import all_on_meta
from harness.dry_run.placeholders import placeholder_cache
from harness.suite import load_suite

SUITE = """\
suite: costs
dataset: {name: cifar10, size: 7}
protocol: {votes: 3}
defenses:
  hybvit: {weights: hybvit-cifar10}
  zoo: {type: robustbench, model: Wang2023Better_WRN-70-16}
  dc: {weights: ncsnpp-cifar10-cond, timesteps: 5}
  diffpure:
    weights: cifar10-ddpmpp-deep-continuous-vp
    classifier: {type: undefended, weights: wrn-70-16-dropout}
    t_star: 0.1
    dt: 0.01
attacks:
  pgd: {norm: Linf, eps: 8/255, steps: 4, eot: 2}
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of checkpoints of which none is here."""
    for name in ("WEIGHTS", "DATA"):
        monkeypatch.setenv(f"HARNESS_{name}", str(tmp_path / name))
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    (tmp_path / "costs.yaml").write_text(SUITE)
    return tmp_path / "costs.yaml"


@pytest.mark.slow
def test_costs_are_passes_times_evaluations_times_images(suite: Path) -> None:
    with placeholder_cache():
        plan = all_on_meta(load_suite(suite))
        costs = {cost.defense: cost for cost in estimate(plan)}
    search = plan.cells[0].attack.build().cost(10)
    votes = {"hybvit": 1, "zoo": 1, "dc": 3, "diffpure": 3}
    evaluations = {"hybvit": (1, 1.2), "zoo": (1, 1.2), "dc": (10 * 5, 2.2), "diffpure": (10 + 1, 2.2)}
    for name, (each, backward) in evaluations.items():
        expected = each * (search.forwards + 2 * votes[name] + backward * search.backwards)
        assert costs[name].images == 7
        assert costs[name].per_image == pytest.approx(expected)
        assert costs[name].evaluations == pytest.approx(7 * expected)


def test_networks_on_the_meta_device_have_no_memory(suite: Path) -> None:
    with placeholder_cache():
        defenses = {cell.defense.name: cell.defense.build() for cell in all_on_meta(load_suite(suite)).cells}
    assert all(parameter.is_meta for defense in defenses.values() for parameter in defense.parameters())
    assert sum(parameter.numel() for parameter in defenses["zoo"].parameters()) > 250_000_000


@pytest.mark.slow
def test_what_is_timed_has_memory_and_finite_answers(suite: Path) -> None:
    with placeholder_cache():
        plan = all_on_meta(load_suite(suite, only="hybvit"))
        defense = plan.cells[0].defense.build()
        materialise(defense)
        assert torch.isfinite(defense(torch.rand(2, 3, 32, 32))).all()
        assert speeds(plan, torch.device("cpu"))["hybvit"] > 0


def test_a_certificate_is_told_without_a_threat_of_size_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["show", "suites/digits/certificates.yaml", "--only", "plain"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "L2 0.5: pgd" in shown
    assert "randomized smoothing" in shown and "L2 0:" not in shown


def test_hours_are_evaluations_over_speed() -> None:
    cost = CellCost("d", "a", "", "", images=10, forwards=0, backwards=0, per_image=7200)
    assert hours([cost], {"d": 20.0}) == [1.0]


def test_show_tells_what_is_missing_and_how_to_get_it(
    suite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main_or_exit("show", str(suite), "--full")
    told = capsys.readouterr().out
    assert "sha256: missing" in told and "8/255" in told
    below = told.partition("Missing, and needed")[2]
    for name in ("at-edm-cifar10-linf", "ncsnpp-cifar10-cond", "wrn-70-16-dropout", "cifar10: "):
        assert name in below
    assert not list(suite.parent.glob("WEIGHTS/*"))


def test_show_measures_a_speed_and_estimates_hours(
    small_suite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cost, "SHORTEST", 0.01)
    main_or_exit("show", str(small_suite), "--measure", "--device", "cpu")
    told = capsys.readouterr().out
    assert "hours" in told and "measured on cpu" in told and "Missing" not in told


def test_hours_fit_into_a_terminal_of_eighty_columns() -> None:
    """The largest there are: ten classes times a thousand timesteps, by the thousand."""
    cost = CellCost("rdc.spacing-uniform.timesteps-1000", "linf", "Linf 8/255", "apgd", 512, 7866, 1910, 1.0592e9)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(_cost_table([cost, cost], hours([cost, cost], {cost.defense: 9.8})))
    told = console.export_text().replace("\xa0", " ")
    assert told.count("542.3 G") == 2 and told.count("1.085 T") == 1
    assert told.count(f"{cost.evaluations / 9.8 / 3600:,.0f}") == 2 and "hours" in told
    assert max(map(len, told.splitlines())) <= 80


def main_or_exit(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert not stop.value.code
