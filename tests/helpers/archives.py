"""Exported runs, changed as whoever can compute hashes would, and what the checker inside them says."""

from __future__ import annotations

import hashlib
import json
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FINISHED = Path(__file__).parents[1] / "golden" / "results_before_layout" / "run"
"""A finished run of five defenses, two of them stochastic, on 32 images."""

CHECKER = Path(__file__).parents[2] / "harness" / "archive" / "check.py"

WITHOUT = """
import runpy, sys
for name in ("harness", "defenses", "attacks", "torch", "safetensors", "scipy", "pydantic"):
    sys.modules[name] = None  # an import of it fails
sys.argv = [sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A program that runs the one it is given, where the package cannot be imported, nor what the checker does not need."""

Files = dict[str, bytes]


def content(archive: Path) -> Files:
    with zipfile.ZipFile(archive) as found:
        return {name: found.read(name) for name in found.namelist()}


def packed(archive: Path, files: Files, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(archive, "w", kind) as made:
        for name, data in files.items():
            made.writestr(zipfile.ZipInfo(name), data, kind)
    return archive


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as found:
        found.extractall(folder)
    return folder


def relisted(files: Files, change: Callable[[dict[str, Any]], object] = lambda index: None) -> Files:
    """The same files, with their hashes in `export.json`, in which something else may be changed, too."""
    index = json.loads(files["export.json"])
    index["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in files if name != "export.json"}
    change(index)
    return {**files, "export.json": json.dumps(index).encode()}


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """The status of `check.py`, in this process."""
    monkeypatch.setattr("sys.argv", ["check.py", *options])
    try:
        return int(runpy.run_path(str(folder / "check.py"))["main"]())
    except SystemExit as end:
        assert isinstance(end.code, str)
        print(end.code)
        return 1
