"""Whatever lies in a results directory, reading it ends in an error for the user, or in what is so."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.reporting import report
from harness.reporting.tables.comparison import compare
from harness.results.load import read_run
from harness.verification import verify

HERE = Path(__file__).parent
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


def beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


directories, attempt = beside("directories"), beside("attempt")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = directories.sound(tmp_path_factory.mktemp("sound"))
    return folder


def outcomes(root: Path) -> set[str]:
    """Of the last report of the manifest and of each pairing."""
    return set({found.name: found.outcome for found in verify(root, CPU)}.values())


def test_the_sound_directory_is_sound(sound: Path) -> None:
    assert outcomes(sound) == {"holds"}
    assert "images of digits" in str(report(sound, "html"))


@pytest.mark.parametrize("case", directories.CASES)
def test_a_hostile_directory_is_refused_or_seen_through(sound: Path, tmp_path: Path, case: str) -> None:
    root = tmp_path / "case"
    shutil.copytree(sound, root)
    directories.CASES[case](root)
    began = time.process_time()
    for read in (lambda: report(root, "html"), lambda: compare(read_run(root), read_run(sound))):
        try:
            read()
        except UserError as error:
            assert len(str(error)) < 1000
    try:
        found = outcomes(root)
    except UserError as error:
        assert len(str(error)) < 1000
    else:
        assert (found == {"holds"}) == (case in directories.HARMLESS)
    assert time.process_time() - began < attempt.SECONDS


def test_bombs_stay_within_their_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "attempt.py"), str(tmp_path), *BOMBS], capture_output=True, text=True, timeout=300
    )
    attempts = [attempt.Attempt(**json.loads(line)) for line in done.stdout.splitlines()]
    assert len(attempts) == len(BOMBS) * len(attempt.COMMANDS), done.stderr
    assert not [found for found in attempts if not found.in_order]
