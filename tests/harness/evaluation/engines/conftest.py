"""A small suite, and what this process makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.engines import contents, finish
from helpers.modules import source

SUITE = """\
suite: small
dataset: {name: digits, split: test, first: 10}
protocol: {votes: 3, seed: 0, shard: 4}
defenses:
  plain: {type: "./fakes.py:NearestMean"}
  noisy: {type: "./fakes.py:Noisy"}
  cnn: {type: undefended, weights: digits-cnn}
attacks:
  strong: {type: "./fakes.py:Noise", eps: 0.9}
  pgd: {type: pgd, norm: Linf, eps: 0.2, steps: 5}
  carried: {type: transfer, norm: Linf, eps: 0.2, from: cnn, attack: pgd}
pairings:
  - {defense: [plain, noisy], attack: strong}
  - {defense: [noisy, cnn], attack: pgd}
  - {defense: plain, attack: carried}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's and built-in parts, deterministic and not, and an attack that needs the images of another: 15 shards."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "fakes.py").write_text(source("fakes"))
    (folder / "suite.yaml").write_text(SUITE)
    return folder / "suite.yaml"


@pytest.fixture(scope="module")
def expected(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the engine in this process makes of the suite."""
    out = tmp_path_factory.mktemp("local")
    assert finish(suite, out).computed == 15
    return contents(suite, out)
