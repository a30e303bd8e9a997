"""Claims for RobustBench and AutoAttack's evaluations: which numbers go in, and that RobustBench takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.reporting import report
from harness.results.record import Record

STANDARD = {"type": "autoattack", "arguments": {"version": "standard"}}
OTHERS = {"rand": {"type": "autoattack", "arguments": {"version": "rand"}}, "pgd": {"type": "pgd", "arguments": {}}}


def finished(maker: Any, parts: dict[str, Any], **dataset: Any) -> Path:
    root: Path = maker.finish(votes=2, resolved={"cells": parts}, dataset={"name": "cifar10", **dataset})
    return root


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record], column: Callable[..., list[Record]]) -> Path:
    """Two defenses under AutoAttack, a stronger attack on one of them, and what the leaderboards do not take."""
    parts = {}
    for name, verdicts in {"good": "rrrw", "bad": "rwww"}.items():
        maker.cell(name, "linf", column(verdicts, "rrrr" if name == "good" else "rrrw"))
        parts[f"{name}/linf"] = STANDARD
    maker.cell("good", "pgd", column("rrww"))
    maker.cell("good", "l2", column("rwww"), threat="L2 0.5")
    maker.cell("noisy", "linf", [rec(at, "rr", "rr") for at in range(4)], stochastic=True)
    maker.cell("leaked", "linf", column("rrrr"))
    maker.defenses["leaked"]["noise_seed"] = 0
    maker.cell("half", "linf", column("rr"))
    maker.cell("other", "linf", column("rrrr"))
    parts |= {
        "good/pgd": OTHERS["pgd"],
        "good/l2": STANDARD,
        "noisy/linf": STANDARD,
        "leaked/linf": STANDARD,
        "half/linf": STANDARD,
    }
    parts["other/linf"] = OTHERS["rand"]
    maker.defenses["good"]["label"] = "Good | <b>"
    return finished(maker, parts)


def claims(run: Path) -> dict[str, dict[str, Any]]:
    found = report(run, "robustbench")
    assert isinstance(found, dict)
    return {name: json.loads(data) for name, data in found.items()}


def test_only_finished_runs_of_the_standard_version_on_deterministic_defenses_are_claimed(run: Path) -> None:
    assert set(claims(run)) == {"cifar10/Linf/good.json", "cifar10/L2/good.json", "cifar10/Linf/bad.json"}


def test_a_claim_states_the_accuracies_the_budget_and_on_how_little_they_rest(run: Path) -> None:
    claim = claims(run)["cifar10/Linf/good.json"]
    assert (claim["clean_acc"], claim["autoattack_acc"], claim["eps"]) == ("100.00", "75.00", "8/255")
    assert claim["footnote"] == "4 images of cifar10 (test), 95% interval 30.06 to 95.44."


def test_a_lower_accuracy_under_another_attack_of_the_budget_is_the_one_that_counts(run: Path) -> None:
    found = claims(run)
    assert found["cifar10/Linf/good.json"]["external"] == found["cifar10/Linf/good.json"]["reported"] == "50.00"
    assert "external" not in found["cifar10/Linf/bad.json"] and "external" not in found["cifar10/L2/good.json"]


def test_a_number_in_doubt_is_unreliable(maker: Any, column: Callable[..., list[Record]]) -> None:
    noise = {"cosine": 0.01, "images": 4}
    maker.cell("noisy", "linf", column("rrrr"), least_cosine=0.5, gradient_noise=noise)
    run = finished(maker, {"noisy/linf": STANDARD})
    claim = claims(run)["cifar10/Linf/noisy.json"]
    assert claim["unreliable"] is True and "may be too high" in claim["footnote"]
    assert "| 100.00? |" in report(run, "autoattack")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_robustbench_reads_the_claims_and_ranks_by_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own function lists the files of models that it knows, so that two of ours are given such names."""
    from robustbench.utils import list_available_models

    found, folder = claims(run), tmp_path / "model_info" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    for name, known in {"bad": "Standard", "good": "Carmon2019Unlabeled"}.items():
        (folder / f"{known}.json").write_text(json.dumps(found[f"cifar10/Linf/{name}.json"]))
    monkeypatch.chdir(tmp_path)
    list_available_models("cifar10", "Linf")
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert "Carmon2019Unlabeled" in first and "100.00%" in first and "50.00%" in first
    assert "Standard" in second and "75.00%" in second and "25.00%" in second


def test_names_of_strangers_lead_nowhere_else(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("plain", "linf", column("rrrw"))
    run = finished(maker, {"plain/linf": STANDARD}, name="../../evil")
    assert list(claims(run)) == ["______evil/Linf/plain.json"]


def test_every_budget_and_every_run_has_a_file_of_its_own(maker: Any, column: Callable[..., list[Record]]) -> None:
    for attack, threat in (("small", "Linf 4/255"), ("large", "Linf 8/255")):
        maker.cell("plain", attack, column("rrrw"), threat=threat)
    run = finished(maker, {"plain/small": STANDARD, "plain/large": STANDARD})
    assert list(claims(run)) == ["cifar10/Linf/plain.json", "cifar10/Linf/plain_8_255.json"]


def test_the_markdown_ranks_by_autoattack_within_a_budget(run: Path) -> None:
    text = report(run, "autoattack")
    assert isinstance(text, str)
    assert text.count("## ") == 2 and "## cifar10, Linf, eps = 8/255\n" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 1 ", "| 2 "))]
    assert [row[-1].strip(" |") for row in rows] == ["75.00", "25.00", "25.00"]
    assert "Good \\| &lt;b&gt;" in text
    assert "another attack of this budget leaves 50.00." in text


@pytest.mark.parametrize("format", ["robustbench", "autoattack"])
def test_results_without_autoattack_are_refused(maker: Any, column: Callable[..., list[Record]], format: str) -> None:
    maker.cell("plain", "linf", column("rrrw"))
    with pytest.raises(UserError, match="no finished run of AutoAttack's standard version"):
        report(finished(maker, {"plain/linf": OTHERS["pgd"]}), format)
