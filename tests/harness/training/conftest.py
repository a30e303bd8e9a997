"""The recipe of a training of a second, as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.trained import RECIPE


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path
