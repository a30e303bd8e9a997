"""A training of a second, and how tests start it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.training import train

RECIPE = """\
recipe: tiny
trainer: {type: classifier, shift: 1}
network: {type: cnn, width: 4, dropout: 0.5}
dataset: {name: digits}
steps: 14
batch_size: 100
optimizer: {lr: 1e-2, weight_decay: 0.1, clip: 1.0}
schedule: {name: cosine, warmup: 3}
ema: 0.9
seed: 5
card: {summary: a test, licence: MIT, source: this test}
"""


def quietly(recipe: Path, runs: str, **options: Any) -> Path:
    """Follows a recipe, with its checkpoints in the folder `runs` beside it. Returns the weights file."""
    return train(recipe, runs=recipe.parent / runs, **options)
