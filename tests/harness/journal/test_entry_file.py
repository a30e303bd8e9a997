"""What a journal's file gives back is what was put into it, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.journal.entry_file import EntryFile, Turn

MINE, OTHER = b"m" * 32, b"o" * 32
QUESTION = b"q" * 16
ANSWERS = {Turn(1): b"first", Turn(1, 1): b"", Turn(2): b"second" * 5, Turn(4): b"fourth"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with `ANSWERS`."""
    path = tmp_path / "cells/a/b/00000-00004.journal"
    file = EntryFile(path, MINE)
    for number, (turn, content) in enumerate(ANSWERS.items()):
        file.append(turn, float(number), QUESTION, content)
    file.close()
    return path


def found(path: Path, identity: bytes = MINE) -> dict[Turn, bytes]:
    file = EntryFile(path, identity)
    entries = {turn: file.find(turn) for turn in (*ANSWERS, Turn(3))}
    answers = {turn: file.content(entry) for turn, entry in entries.items() if entry}
    file.close()
    return {turn: content for turn, content in answers.items() if content is not None}


def test_another_process_finds_what_was_appended(path: Path) -> None:
    assert found(path) == ANSWERS
    file = EntryFile(path, MINE)
    entry = file.find(Turn(2))
    assert entry and (entry.seconds, entry.question) == (2.0, QUESTION)


def test_no_file_is_made_before_the_first_entry(tmp_path: Path) -> None:
    EntryFile(tmp_path / "new/file", MINE).close()
    assert not list(tmp_path.iterdir())


def test_a_file_torn_anywhere_keeps_the_entries_before_and_takes_new_ones(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        kept = found(path)
        assert list(kept.items()) == list(ANSWERS.items())[: len(kept)], size
        assert len(kept) < len(ANSWERS)
        file = EntryFile(path, MINE)
        file.append(Turn(9), 0.0, QUESTION, b"new")
        file.close()
        file = EntryFile(path, MINE)
        entry = file.find(Turn(9))
        assert entry and file.content(entry) == b"new" and len(file) == len(kept) + 1
        file.close()


def test_a_changed_byte_is_noticed_wherever_it_is(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        kept = found(path)
        assert kept.items() < ANSWERS.items(), place


def test_entries_of_something_else_are_not_found_and_make_room(path: Path) -> None:
    assert not found(path, OTHER)
    file = EntryFile(path, OTHER)
    file.append(Turn(1), 0.0, QUESTION, b"mine")
    file.close()
    assert found(path, OTHER) == {Turn(1): b"mine"}
    assert not found(path)


def test_a_second_process_neither_reads_nor_writes(path: Path) -> None:
    first, whole = EntryFile(path, MINE), path.read_bytes()
    second = EntryFile(path, MINE)
    second.append(Turn(9), 0.0, QUESTION, b"lost")
    assert len(first) == len(ANSWERS) and not len(second)
    assert path.read_bytes() == whole


def test_it_never_exceeds_its_bound_and_ends_at_the_first_entry_that_would(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = EntryFile(path, MINE, most=1000)
    for number in range(20):
        file.append(Turn(number), 0.0, QUESTION, b"x" * 100)
    file.append(Turn(99), 0.0, QUESTION, b"")
    file.close()
    assert path.stat().st_size <= 1000
    file = EntryFile(path, MINE)
    assert [number for number in range(100) if file.find(Turn(number))] == list(range(len(file)))
    assert 4 < len(file) < 10


def test_cutting_removes_an_entry_and_the_later_ones(path: Path) -> None:
    file = EntryFile(path, MINE)
    entry = file.find(Turn(2))
    assert entry
    file.cut(entry)
    file.append(Turn(2), 0.0, QUESTION, b"another")
    file.close()
    assert found(path) == {Turn(1): b"first", Turn(1, 1): b"", Turn(2): b"another"}


def test_a_full_disk_gets_its_space_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    file = EntryFile(path, MINE)
    monkeypatch.setattr(os, "pwrite", full)
    file.append(Turn(9), 0.0, QUESTION, b"new")
    monkeypatch.undo()
    assert not path.exists()
    file.append(Turn(10), 0.0, QUESTION, b"new")
    assert not path.exists() and not len(file)


@pytest.mark.parametrize("what", ["link", "folder", "pipe", "unwritable"])
def test_what_is_no_file_of_ours_is_left_alone(tmp_path: Path, what: str) -> None:
    path, victim = tmp_path / "file", tmp_path / "victim"
    victim.write_bytes(b"precious")
    {
        "link": lambda: path.symlink_to(victim),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "unwritable": lambda: (path.write_bytes(b"other"), path.parent.joinpath("none").symlink_to("none")),
    }[what]()
    if what == "unwritable":
        path = tmp_path / "none" / "file"
    file = EntryFile(path, MINE)
    file.append(Turn(1), 0.0, QUESTION, b"new")
    assert not len(file)
    assert victim.read_bytes() == b"precious"
