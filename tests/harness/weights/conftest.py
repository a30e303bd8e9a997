"""A small network's weights, a file of them, and a defense by such a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.config.component import Component
from harness.suite import load_suite
from harness.weights import build_network

SMALL: dict[str, Any] = {"type": "cnn", "width": 4}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(value) for name, value in build_network(SMALL).state_dict().items()}


@pytest.fixture
def file(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    return path


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def defense_of(folder: Path, weights: str, more: str = "") -> Component:
    entry = f"{{type: undefended, weights: '{weights}', network: {{type: cnn, width: 4}}{more}}}"
    (folder / "s.yaml").write_text(
        f"suite: s\ndataset: {{name: digits, first: 8}}\ndefenses: {{d: {entry}}}\nattacks: {{clean: {{}}}}\n"
    )
    return load_suite(folder / "s.yaml").cells[0].defense
