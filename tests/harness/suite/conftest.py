"""A folder with the classes that `helpers.planned` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.planned import FAKES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    (folder / "fakes.py").write_text(FAKES)
    return folder
