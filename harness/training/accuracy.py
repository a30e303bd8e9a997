"""The clean accuracy of a trained network, which its card states.

A diffusion classifier takes many evaluations for each of ten thousand images. So the measurement says how far it is,
and one that is stopped is continued: what was counted is kept in a file beside the checkpoint.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from harness.callback import SILENT, Callback
from harness.datasets.dataset import Dataset
from harness.files import write_atomically
from harness.randomness import derive, fenced
from harness.training.trainer import Trainer, check_logits

AT_ONCE = 100
"""Images of a batch."""

SAVE_EVERY = 30.0
"""Seconds between two writes of the file."""


@dataclass
class Count:
    """How many of the first images were classified correctly, by which weights."""

    weights: str
    images: int = 0
    correct: int = 0


def accuracy(
    trainer: Trainer,
    network: nn.Module,
    data: Dataset,
    classes: int,
    seed: int,
    *,
    weights: str,
    file: Path,
    callback: Callback = SILENT,
) -> float:
    """The fraction of images that the network classifies correctly, by the trainer's logits.

    Args:
        classes: K, of the dataset.
        seed: of the trainer's noise, which is that of an image's batch, whenever the batch is evaluated.
        weights: the hash of the network's weights.
        file: holds what an earlier call with these weights has counted, and gets what this one counts.
        callback: is told how many images are done.
    """
    device = next(network.parameters()).device
    count, saved = _continued(file, weights, len(data)), time.monotonic()
    try:
        while count.images < len(data):
            batch = slice(count.images, count.images + AT_ONCE)
            x, y = data.images[batch].to(device), data.labels[batch]
            with torch.no_grad(), fenced(derive(seed, "evaluation", count.images)):
                logits = trainer.logits(network, x, classes)
            check_logits(trainer, logits, len(x), classes)
            right = logits.argmax(1).cpu() == y
            count.images, count.correct = count.images + len(y), count.correct + int(right.sum())
            callback.measured(count.images, len(data))
            if time.monotonic() - saved > SAVE_EVERY:
                _save(file, count)
                saved = time.monotonic()
    finally:
        _save(file, count)
    return count.correct / len(data)


def _continued(file: Path, weights: str, images: int) -> Count:
    """What the file holds, if it is of these weights; otherwise a new count."""
    try:
        found = Count(**json.loads(file.read_bytes()))
        if found.weights == weights and 0 <= found.correct <= found.images <= images:
            return found
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        pass
    return Count(weights)


def _save(file: Path, count: Count) -> None:
    write_atomically(file, json.dumps(asdict(count)).encode())
