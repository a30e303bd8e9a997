"""A small suite that runs in seconds, a user's own defenses and attacks on the embedded digits, and a small recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.modules import source
from helpers.trained import RECIPE

FAKES = source("fakes")

SUITE = """\
suite: small
title: A small suite
dataset: {name: digits, split: test, first: 10}
protocol: {votes: 3, seed: 0, shard: 4}
defenses:
  plain: {type: "./fakes.py:NearestMean"}
  noisy: {type: "./fakes.py:Noisy"}
attacks:
  weak: {type: "./fakes.py:Noise", eps: 1/16}
  strong: {type: "./fakes.py:Noise", eps: 0.9}
"""


@pytest.fixture
def small_suite(tmp_path: Path) -> Path:
    """Path of a suite file of 2 defenses x 2 attacks x 10 images, in shards of 4, beside the classes that it names."""
    (tmp_path / "fakes.py").write_text(FAKES)
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Path of a recipe of a training that takes a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path
