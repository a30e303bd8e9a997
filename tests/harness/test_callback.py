"""Work is silent unless it is given a callback, and tells one everything in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from harness.callback import Callback
from harness.checks import Finding
from harness.cli import diagnose_progress, run_progress, train_progress
from harness.diagnosis import Options, diagnose
from harness.evaluation.outlook import Outlook
from harness.evaluation.pending import CellRun
from harness.evaluation.run import run
from harness.results.record import Record
from harness.suite import load_suite
from harness.target import Target

CPU = torch.device("cpu")


class Diary(Callback):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(f"note: {text}")

    @contextmanager
    def running(self, runs: Sequence[CellRun]) -> Iterator[None]:
        self.lines.append(f"running {', '.join(run.name for run in runs)}")
        yield
        self.lines.append("ran")

    def examining(self, defenses: Sequence[str]) -> None:
        self.lines.append(f"examining {', '.join(defenses)}")

    def planned(self, outlook: Outlook) -> None:
        self.lines.append(f"planned, {outlook.unmeasured()} pairings not measured")

    def began(self, run: CellRun) -> None:
        self.lines.append(f"began {run.name}, {len(run.missing)} shards missing")

    def watch(self, run: CellRun, target: Target) -> None:
        self.lines.append(f"watch {run.name}, {int(target.forwards.sum())} passes")

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        self.lines.append(f"finished {run.name}, {len(records)} images, {len(run.missing)} shards missing")

    @contextmanager
    def diagnosing(self, defense: str, checks: int, passes: Callable[[], int]) -> Iterator[None]:
        self.lines.append(f"diagnosing {defense}, {passes()} passes")
        yield
        self.lines.append(f"diagnosed {checks}")

    def checking(self, check: str) -> None:
        self.lines.append("checking")

    def found(self, finding: Finding) -> None:
        self.lines.append("found")


def test_a_run_tells_its_pairings_then_each_shard_as_it_is_attacked_and_stored(
    small_suite: Path, tmp_path: Path
) -> None:
    diary = Diary()
    run(load_suite(small_suite, only="noisy"), tmp_path / "out", CPU, diary)
    names, shards = ("noisy/weak", "noisy/strong"), ((4, 2), (4, 1), (2, 0))

    def told(name: str, images: int, left: int) -> list[str]:
        return [f"watch {name}, 0 passes", f"finished {name}, {images} images, {left} shards missing"]

    first, *others = shards
    assert [line for line in diary.lines if not line.startswith("note")] == [
        "examining noisy",
        "running noisy/weak, noisy/strong",
        "planned, 2 pairings not measured",
        *(line for name in names for line in (f"began {name}, 3 shards missing", *told(name, *first))),
        *(line for name in names for shard in others for line in told(name, *shard)),
        "ran",
    ]


def test_a_diagnosis_tells_each_finding_those_of_an_earlier_one_too(small_suite: Path, tmp_path: Path) -> None:
    plan, options = load_suite(small_suite, only="plain/weak"), Options(images=4, steps=1, queries=1, largest_eot=1)
    heard = []
    for _ in range(2):
        diary = Diary()
        [diagnosis] = diagnose(plan, tmp_path / "out", options, CPU, diary)
        heard.append(diary.lines)
    checks = len(diagnosis.findings)
    again = sum(finding.status == "failed" for finding in diagnosis.findings)
    assert heard[0] == ["diagnosing plain, 0 passes", *["checking", "found"] * checks, f"diagnosed {checks}"]
    assert heard[1].count("found") == checks and heard[1].count("checking") == again


def test_a_run_without_a_callback_prints_nothing(
    small_suite: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(load_suite(small_suite, only="plain/weak"), tmp_path / "out", CPU)
    assert capfd.readouterr() == ("", "")


def test_an_exception_of_a_callback_ends_the_run_and_keeps_what_was_stored(small_suite: Path, tmp_path: Path) -> None:
    class Enough(Callback):
        def finished(self, run: CellRun, records: Sequence[Record]) -> None:
            raise RuntimeError("enough")

    plan = load_suite(small_suite, only="plain/weak")
    with pytest.raises(RuntimeError, match="enough"):
        run(plan, tmp_path / "out", CPU, Enough())
    assert run(plan, tmp_path / "out", CPU).computed == 2


@pytest.mark.parametrize("display", [run_progress.Display, diagnose_progress.Display, train_progress.Display])
def test_a_display_overrides_methods_that_a_callback_has(display: type[Callback]) -> None:
    """A method of another name would never be called."""
    own = {name for name in vars(display) if not name.startswith("_")}
    assert own and own <= vars(Callback).keys()
