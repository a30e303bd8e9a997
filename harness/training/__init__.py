"""Training of the packaged weights and of users' own: a recipe, a trainer that defines the loss, and the loop."""

from __future__ import annotations

from harness.training.loop import train
from harness.training.trainer import Trainer, as_used, logits_of, normalised

__all__ = ["Trainer", "as_used", "logits_of", "normalised", "train"]
