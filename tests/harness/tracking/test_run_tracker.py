"""What a run sends to an experiment tracker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import cli
from harness.callback import Callbacks
from harness.errors import UserError
from harness.evaluation.run import run
from harness.reporting.tables.table import summarise
from harness.results.load import read_run
from harness.suite import load_suite
from harness.tracking import Recorder, Tracker, recorders, tracker

CPU = torch.device("cpu")


class Notebook(Recorder):
    """Keeps what it is sent, or fails from a call on."""

    def __init__(self, fails_at: int = 10**6) -> None:
        self.calls: list[str] = []
        self.begun: list[tuple[str, Mapping[str, str]]] = []
        self.numbers: list[tuple[Mapping[str, float], int]] = []
        self.texts: list[str] = []
        self._fails_at = fails_at

    def begin(self, name: str, facts: Mapping[str, str]) -> None:
        self._called("begin")
        self.begun.append((name, facts))

    def record(self, numbers: Mapping[str, float], step: int) -> None:
        self._called("record")
        self.numbers.append((numbers, step))

    def end(self, text: str) -> None:
        self._called("end")
        self.texts.append(text)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) >= self._fails_at:
            raise ConnectionError("the server is gone")

    def of(self, prefix: str) -> list[tuple[dict[str, float], int]]:
        return [
            ({name.removeprefix(prefix): value for name, value in numbers.items()}, step)
            for numbers, step in self.numbers
            if next(iter(numbers)).startswith(prefix)
        ]


@pytest.fixture
def notebook(small_suite: Path, tmp_path: Path) -> Notebook:
    """Of a finished run of noisy/weak and noisy/strong, 10 images in shards of 4."""
    kept = Notebook()
    run(load_suite(small_suite, only="noisy"), tmp_path / "out", CPU, Tracker(kept, "notebook"))
    return kept


def test_it_begins_once_then_records_each_shard_and_the_table_and_ends(notebook: Notebook) -> None:
    assert notebook.calls == ["begin", *["record"] * (3 + 3 + 5), "end"]  # two pairings, and the table with two attacks
    (name, facts) = notebook.begun[0]
    assert name == "small" and facts["dataset"] == "digits (test)" and facts["images"] == "10"


def test_the_numbers_after_each_shard_are_those_of_the_records_so_far(notebook: Notebook, tmp_path: Path) -> None:
    records = list(read_run(tmp_path / "out").pairings["noisy", "weak"].columns)
    for (numbers, step), count in zip(notebook.of("noisy/weak/"), (4, 8, 10), strict=True):
        part = records[:count]
        right = np.mean([[vote == record.label for vote in record.adv_votes] for record in part])
        clean = np.mean([[vote == record.label for vote in record.clean_votes] for record in part])
        assert step == count
        assert numbers == {
            "robust_accuracy": pytest.approx(right),
            "clean_accuracy": pytest.approx(clean),
            "errors": 0,
            "forwards": sum(record.forwards for record in part),
            "backwards": sum(record.backwards for record in part),
        }


def test_the_last_numbers_are_those_of_the_table(notebook: Notebook, tmp_path: Path) -> None:
    table = summarise(read_run(tmp_path / "out"))
    (row,) = table.rows
    for column, entry in zip(table.columns, row.entries, strict=True):
        assert entry.estimate is not None
        expected = {"accuracy": entry.estimate.value, "low": entry.estimate.low, "high": entry.estimate.high}
        assert notebook.of(f"table/noisy/{column.name}/") == [(expected, 0)]
    assert notebook.texts[0].startswith("**A small suite**")


def test_a_finished_run_is_recorded_with_its_table(small_suite: Path, tmp_path: Path) -> None:
    plan, kept = load_suite(small_suite, only="plain/weak"), Notebook()
    run(plan, tmp_path / "out", CPU)
    assert run(plan, tmp_path / "out", CPU, Tracker(kept, "notebook")).computed == 0
    assert kept.calls == ["begin", "record", "record", "end"]


def test_what_earlier_sessions_computed_is_recorded_first(small_suite: Path, tmp_path: Path) -> None:
    kept = Notebook()
    run(load_suite(small_suite, only="plain/weak"), tmp_path / "out", CPU)
    run(load_suite(small_suite, only="plain"), tmp_path / "out", CPU, Tracker(kept, "notebook"))
    assert [step for _, step in kept.of("plain/weak/")] == [10]
    assert [step for _, step in kept.of("plain/strong/")] == [4, 8, 10]


@pytest.mark.parametrize("fails_at", [1, 3, 8])
def test_a_tracker_that_fails_ends_no_run_and_is_asked_no_more(
    small_suite: Path, tmp_path: Path, fails_at: int
) -> None:
    bad, good, said = Notebook(fails_at), Notebook(), list[str]()
    both = Callbacks([Tracker(bad, "bad", said.append), Tracker(good, "good", said.append)])
    assert run(load_suite(small_suite, only="noisy"), tmp_path / "out", CPU, both).computed == 6
    assert len(bad.calls) == fails_at and good.calls[-1] == "end"
    (text,) = said
    assert text.startswith("bad failed, and gets no more numbers; the run goes on: ConnectionError: the server is gone")


def test_errors_leave_no_accuracy_behind(small_suite: Path, tmp_path: Path) -> None:
    (tmp_path / "fakes.py").write_text(
        (tmp_path / "fakes.py").read_text()
        + "\n\nclass Crash(Noise):\n    def perturb(self, target, x, y):\n        raise ValueError('no')\n"
    )
    small_suite.write_text(
        small_suite.read_text().replace('weak: {type: "./fakes.py:Noise"', 'weak: {type: "./fakes.py:Crash"')
    )
    kept = Notebook()
    run(load_suite(small_suite, only="plain/weak"), tmp_path / "out", CPU, Tracker(kept, "notebook"))
    numbers, _ = kept.of("plain/weak/")[-1]
    assert numbers["errors"] == 10 and numbers["clean_accuracy"] > 0 and "robust_accuracy" not in numbers
    assert [next(iter(each)) for each, _ in kept.numbers if "table/" in next(iter(each))] == [
        "table/plain/clean/accuracy"
    ]


@pytest.mark.parametrize("spec", ["tensorbord:x", "tensorboard", "wandb:", "csv:x"])
def test_a_tracker_that_there_is_not_or_without_a_place_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"no experiment tracker|where to log"):
        tracker(spec)


@pytest.mark.parametrize("name", recorders.names())
def test_a_missing_package_is_said_with_what_installs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as caught:
        tracker(f"{name}:somewhere")
    assert f"the package '{name}' is not installed" in str(caught.value)
    assert f"pip install 'adversarial-harness[{name}]'" in str(caught.value)


def test_the_command_names_a_missing_package_before_any_work(
    small_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", str(small_suite), "--out", str(tmp_path / "out"), "--log", "wandb:project"])
    assert ended.value.code == 2 and "adversarial-harness[wandb]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_naming_the_trackers_imports_none() -> None:
    code = "import sys; from harness.tracking import recorders; recorders.names(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "mlflow", "wandb", "tensorboard"} & set(loaded)
