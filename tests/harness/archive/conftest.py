"""An exported run, and the same unpacked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.archive.writing import export_run
from helpers.archives import FINISHED, unpacked
from tests.harness.reporting.conftest import Maker


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive; not to be changed."""
    return export_run(FINISHED, tmp_path_factory.mktemp("exported") / "run.zip").path


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A folder with the files of the archive."""
    return unpacked(exported, tmp_path / "unpacked")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the results directory."""
    return Path(shutil.copytree(FINISHED, tmp_path / "results" / "quickstart"))


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "run")
