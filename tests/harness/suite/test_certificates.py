"""The section `certificates` of a suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.diagnosis.run import _cells as diagnosed
from harness.errors import UserError
from harness.suite import load_suite

SUITE = """
suite: certified
dataset: {name: digits, first: 4}
defenses:
  bare: {type: undefended, weights: digits-cnn}
  smooth: {type: smoothed, sigma: 1/4, classifier: {type: undefended, weights: digits-cnn}}
attacks:
  l2: {type: pgd, norm: L2, eps: 0.5}
pairings:
  - {defense: [bare, smooth], attack: l2}
certificates:
  smoothing: {n0: 10, n: 100}
  tight: {type: smoothing, n: 500, label: Tight}
"""


def plan(folder: Path, text: str = SUITE, only: str | None = None):  # type: ignore[no-untyped-def]
    (folder / "suite.yaml").write_text(text)
    return load_suite(folder / "suite.yaml", only=only)


def names(cells) -> list[str]:  # type: ignore[no-untyped-def]
    return [f"{cell.defense.name}/{cell.attack.name}" for cell in cells]


def test_every_certificate_is_of_every_smoothed_defense_and_of_no_other(tmp_path: Path) -> None:
    assert names(plan(tmp_path).cells) == ["bare/l2", "smooth/l2", "smooth/smoothing", "smooth/tight"]


def test_one_certificate_can_be_run_alone(tmp_path: Path) -> None:
    assert names(plan(tmp_path, only="smooth/tight").cells) == ["smooth/tight"]


def test_a_certificate_has_the_arguments_of_its_class(tmp_path: Path) -> None:
    *_, smoothing, tight = plan(tmp_path).cells
    assert smoothing.attack.resolved() == {"n0": 10, "n": 100, "alpha": 0.001}
    assert (tight.attack.build().n, tight.attack.label) == (500, "Tight")


@pytest.mark.parametrize(
    ("before", "after", "line", "message"),
    [
        ("  smoothing:", "  l2:", 12, "there is no certificate 'l2'"),
        ("  tight:", "  l2:", 13, "'l2' is a certificate and an attack"),
        ("{n0: 10,", "{n1: 10,", 12, "certificate 'smoothing' has no argument 'n1'"),
        ("n0: 10", "n0: 0", 12, "n0 is 0"),
        ("type: smoothing", "type: pgd", 13, "there is no certificate 'pgd'"),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path: Path, before: str, after: str, line: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        plan(tmp_path, SUITE.replace(before, after))
    assert message in str(error.value)
    assert error.value.where is not None and error.value.where.line == line


def test_a_diagnosis_takes_its_budget_from_an_attack_and_never_from_a_certificate(tmp_path: Path) -> None:
    text = SUITE.replace("{type: pgd, norm: L2, eps: 0.5}", "{type: stadv, bound: 0.05}")
    with pytest.raises(UserError, match="not paired with an attack of norm"):
        diagnosed(plan(tmp_path, text, only="smooth"))
    assert names(diagnosed(plan(tmp_path))) == ["bare/l2", "smooth/l2"]


def test_certificates_without_a_smoothed_defense_are_refused_with_the_way_to_smooth_one(tmp_path: Path) -> None:
    text = SUITE.replace("  smooth: {type: smoothed", "  x-smooth: {type: smoothed")
    text = "\n".join(line for line in text.splitlines() if "smoothed" not in line).replace("[bare, smooth]", "bare")
    with pytest.raises(UserError, match="no smoothed defense") as error:
        plan(tmp_path, text)
    assert "{type: smoothed, sigma: 0.25, classifier: ...}" in str(error.value)
