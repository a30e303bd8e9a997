"""Whatever lies in a results directory, reading it ends in an error for the user, or in what is so."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.reporting import report
from harness.reporting.tables.comparison import compare
from harness.results.load import read_run
from harness.verification import verify
from helpers import hostile

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
SECONDS = 10
CPU = torch.device("cpu")

BOMBS = [
    *("run.json: ten sparse gigabytes", "run.json: five million empty lists", "run.json: 300,000 keys, one twice"),
    *(
        "run.json: a dataset that swells",
        "run.json: a table of nine million places",
        "records: ten million votes",
        "records: one text, many times",
    ),
    *("records: pages that lie", "records: a text of fifty megabytes", "images: two half gigabytes"),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = hostile.sound(tmp_path_factory.mktemp("sound"))
    return folder


def outcomes(root: Path, replay: bool = True) -> set[str]:
    """Of the last report of the manifest and of each pairing."""
    return set({found.name: found.outcome for found in verify(root, CPU, replay=replay)}.values())


def test_the_sound_directory_is_sound(sound: Path) -> None:
    assert outcomes(sound) == {"holds"}
    assert "images of digits" in str(report(sound, "html"))


@pytest.mark.parametrize("case", hostile.CASES)
def test_a_hostile_directory_is_refused_or_seen_through(sound: Path, tmp_path: Path, case: str) -> None:
    root = tmp_path / "case"
    shutil.copytree(sound, root)
    hostile.CASES[case](root)
    began = time.process_time()
    for read in (lambda: report(root, "html"), lambda: compare(read_run(root), read_run(sound))):
        try:
            read()
        except UserError as error:
            assert len(str(error)) < 1000
    try:
        found = outcomes(root, replay=case.partition(": ")[2] not in hostile.FILES)  # what is no file asks no defense
    except UserError as error:
        assert len(str(error)) < 1000
    else:
        assert (found == {"holds"}) == (case in hostile.HARMLESS)
    assert time.process_time() - began < SECONDS


@pytest.mark.long
def test_bombs_stay_within_their_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "helpers.hostile", str(tmp_path), *BOMBS]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 2 * len(BOMBS)
