"""`harness check SUITE` checks the suite's defenses on the suite's own images."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.checks.finding import Finding

pytestmark = pytest.mark.slow


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


def test_each_defense_of_a_suite_is_checked_on_its_images(
    small_suite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    checked = []

    def note(defense: object, x: object, y: object, **facts: object) -> list[Finding]:
        checked.append((type(defense).__name__, len(x), facts["dataset"]))  # type: ignore[arg-type]
        return [Finding("runs", "failed" if type(defense).__name__ == "Noisy" else "passed", "seen")]

    monkeypatch.setattr("harness.checks.defense.check_defense", note)
    assert call("check", str(small_suite)) == 1
    assert checked == [("NearestMean", 10, "digits"), ("Noisy", 10, "digits")]
    shown = capsys.readouterr().out
    assert "defense plain" in shown and "defense noisy" in shown and "Failed: runs." in shown
    assert call("check", str(small_suite), "--only", "plain", "--set", "dataset.first=6") == 0
    assert checked[2:] == [("NearestMean", 6, "digits")]


def test_a_suite_whose_images_its_defense_cannot_take_is_an_error_at_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat.py").write_text(
        "from torch import nn\nfrom harness import Defense\n\n\nclass Flat(Defense):\n    def __init__(self):\n"
        "        super().__init__()\n        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n\n"
        "    def classify(self, x):\n        return self.net(x)\n"
    )
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "suite: s\ndataset: {name: digits, first: 4}\ndefenses:\n  flat: {type: ./flat.py:Flat}\n"
        "attacks:\n  none: {type: clean}\n"
    )
    assert call("check", str(suite)) == 2
    error = capsys.readouterr().err
    assert "suite.yaml:4: defense 'flat' takes images of 3x32x32, such as those of 'cifar10'" in error
    assert "Give the suite another dataset" in error


def test_a_sound_defense_of_a_suite_passes(small_suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", str(small_suite), "--only", "plain") == 0
    assert "passed" in capsys.readouterr().out
