"""Training of the packaged weights, or anyone's: a recipe, a trainer that knows the loss, and one loop for all."""

from __future__ import annotations

from harness.training.loop import train
from harness.training.trainer import Trainer, as_used, logits_of, normalised

__all__ = ["Trainer", "as_used", "logits_of", "normalised", "train"]
