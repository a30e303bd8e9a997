"""What is said where the Hub's package is not installed, or the network is switched off."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.hub.sharing import pull_run, pull_weights


def test_a_missing_package_is_said_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'adversarial-harness\[hub\]'"):
        pull_run("me/run", tmp_path / "run")


def test_offline_means_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(UserError, match="the network is switched off"):
        pull_weights("me/net", tmp_path / "net.safetensors")


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        pull_weights("me/net", tmp_path / "net.safetensors")
    assert (tmp_path / "net.yaml").read_text() == "mine"
