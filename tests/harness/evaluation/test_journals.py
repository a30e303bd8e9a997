"""A run whose process ends inside a shard is continued inside that shard, by whichever engine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import harness
from harness.errors import UserError
from harness.evaluation.engines.processes import Processes
from harness.evaluation.journals import Journals
from harness.results.store import CellStore, Store
from harness.settings import journal_after
from helpers.commands import command
from helpers.engines import Notes, contents, finish
from helpers.modules import source

SUITE = """\
suite: struck
dataset: {name: digits, split: test, first: 6}
protocol: {votes: 2, shard: 3, gates: off}
defenses:
  struck: {type: "./struck.py:Struck"}
attacks:
  pgd: {type: pgd, norm: Linf, eps: 0.2, steps: 40, eot: 2}
"""
GRADIENTS = 2 * 40
"""That a run takes."""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name in ("fakes", "struck"):
        (tmp_path / f"{name}.py").write_text(source(name))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path / "suite.yaml"


def strike(suite: Path, number: int, by: signal.Signals) -> None:
    suite.with_name("Struck.at").write_text(f"{number} {by.value}")


def gradients(suite: Path) -> int:
    return os.path.getsize(suite.with_name("Struck"))


def run_status(suite: Path, out: Path) -> int:
    """The exit status of `harness run` in a process of its own."""
    words = ["run", str(suite), "--out", str(out), "--device", "cpu"]
    return command(*words, environment={"HARNESS_JOURNAL_AFTER": "0"}).wait()


@pytest.mark.long
def test_a_shard_is_continued_after_kills_of_a_run_and_of_a_worker_without_asking_anything_twice(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_JOURNAL_AFTER", "0")
    finish(suite, tmp_path / "whole")
    assert gradients(suite) == GRADIENTS
    suite.with_name("Struck").unlink()

    out = tmp_path / "out"
    strike(suite, 55, signal.SIGKILL)
    assert run_status(suite, out) == -signal.SIGKILL
    assert [path.name for path in out.rglob("*.journal")] == ["00003-00006.journal"]
    strike(suite, 65, signal.SIGTERM)
    assert run_status(suite, out) == 128 + signal.SIGTERM
    strike(suite, 75, signal.SIGKILL)
    notes = Notes()
    finish(suite, out, Processes(["cpu", "cpu"], threads=1), notes)
    assert any("beginning it again" in note for note in notes.notes)
    assert contents(suite, out) == contents(suite, tmp_path / "whole")
    assert gradients(suite) == GRADIENTS + 3, "one gradient was lost with each process"
    assert not list(out.rglob("*.journal"))


def test_a_short_run_leaves_nothing_and_writes_nothing(suite: Path, tmp_path: Path) -> None:
    finish(suite, tmp_path / "out")
    cell = tmp_path / "out/cells/struck/pgd"
    assert all(path.suffix in (".parquet", ".safetensors") for path in cell.iterdir())


def test_a_journal_that_was_left_behind_disturbs_no_reader_and_goes_with_the_next_run(
    suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    finish(suite, out)
    expected, cell = contents(suite, out), out / "cells/struck/pgd"
    report = harness.report(out, format="csv")
    for name in ("00000-00003", "00000-00006"):
        (cell / f"{name}.journal").write_bytes(b"whatever")
    os.mkfifo(cell / "00003-00006.journal")
    assert harness.report(out, format="csv") == report and contents(suite, out) == expected
    assert finish(suite, out).computed == 0
    assert not list(out.rglob("*.journal"))


@pytest.mark.parametrize("left", ["text", "a pipe", "a folder", "a link"])
def test_what_lies_in_the_place_of_a_journal_does_not_keep_a_shard_from_being_computed(
    suite: Path, tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_JOURNAL_AFTER", "0")
    path = tmp_path / "out/cells/struck/pgd/00000-00003.journal"
    path.parent.mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    if left == "text":
        path.write_text("HARNESSJ" + "text" * 100)
    elif left == "a pipe":
        os.mkfifo(path)
    elif left == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "mine")
    assert finish(suite, tmp_path / "out").computed == 2
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.fixture
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journals:
    monkeypatch.setenv("HARNESS_JOURNAL_AFTER", "0")
    with Store(tmp_path / "out").locked():
        return Journals.of(tmp_path / "out")


SHARDS = [(0, 4), (4, 8)]


def kept(journals: Journals, key: str = "key", shards: list[tuple[int, int]] = SHARDS, values: str = "v") -> bool:
    """Whether there is a record of these shards. Makes one, too."""
    with journals.journal(CellStore(Path("anywhere/cells/d/a"), key), shards, values) as journal:
        assert journal is not None
        turn = journal.next_query()
        found = journal.recall(turn, lambda: b"q" * 16) is not None
        journal.keep(turn, lambda: b"q" * 16, lambda: b"answer")
        return found


def test_a_record_is_found_by_the_same_pairing_shards_values_and_code_alone(
    journals: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not kept(journals) and kept(journals)
    monkeypatch.setattr("harness.evaluation.journals.code_digest", lambda: "another")
    assert not kept(journals) and kept(journals)
    for other in ({"key": "other"}, {"values": "others"}, {"shards": [(0, 8)]}):
        assert not kept(journals, **other) and kept(journals, **other)  # type: ignore[arg-type]
        assert not kept(journals)


def test_another_directory_at_the_same_place_gets_no_journal(journals: Journals) -> None:
    elsewhere = Journals(journals.root, journals.lock + 1, 0)
    for absent in (elsewhere, Journals(journals.root / "none", journals.lock, 0), Journals(journals.root, 0, None)):
        with absent.journal(CellStore(Path("cells/d/a"), "key"), SHARDS, None) as journal:
            assert journal is None
    assert not list(journals.root.rglob("*.journal"))


def test_the_journals_of_stored_images_are_removed_and_no_others(journals: Journals) -> None:
    stored = CellStore(journals.root / "cells/d/a", "key")
    for shards in ([(0, 4)], SHARDS, [(8, 12)]):
        kept(journals, shards=shards)
    (stored.folder / "mine.journal").touch()
    journals.remove(stored, [(0, 4), (0, 8)])
    assert sorted(path.name for path in stored.folder.iterdir()) == ["00008-00012.journal", "mine.journal"]


def test_the_setting_is_seconds_or_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_JOURNAL_AFTER", raising=False)
    assert journal_after() == 60
    for text, seconds in (("0", 0.0), ("2.5", 2.5), ("never", None), ("", 60.0)):
        monkeypatch.setenv("HARNESS_JOURNAL_AFTER", text)
        assert journal_after() == seconds
    for text in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("HARNESS_JOURNAL_AFTER", text)
        with pytest.raises(UserError, match="no number of seconds"):
            journal_after()
