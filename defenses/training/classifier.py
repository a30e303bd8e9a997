"""Ordinary training: cross-entropy on images that are shifted a little."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError
from harness.training import Trainer, logits_of


class Classifier(Trainer):
    """Minimises cross-entropy.

    Args:
        shift: images are moved by up to so many pixels along each axis, zeros moving in; 0 leaves them in place.
        label_smoothing: share of the target spread evenly over all classes.

    Raises:
        UserError: a negative shift, or a share outside [0, 1).
    """

    def __init__(self, shift: int = 0, label_smoothing: float = 0.0) -> None:
        if shift < 0:
            raise UserError(f"shift is {shift}", remedy="It is a number of pixels, 0 or more")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing is {label_smoothing}", remedy="It is at least 0 and less than 1")
        self.shift, self.label_smoothing = shift, label_smoothing

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(network, jittered(x, self.shift)), y, label_smoothing=self.label_smoothing)


def jittered(x: Tensor, shift: int) -> Tensor:
    """Each image (N, C, H, W) moved at random by up to `shift` pixels along each axis."""
    return shifted(x, torch.randint(-shift, shift + 1, (len(x), 2)))


def shifted(x: Tensor, moves: Tensor) -> Tensor:
    """Each image moved by its own whole number of pixels, zeros moving in.

    Args:
        x: images, (N, C, H, W).
        moves: pixels downwards and to the right, (N, 2) int64 on the CPU, negative for the other way.

    Returns:
        (N, C, H, W).
    """
    height, width = x.shape[2:]
    margin, moves = int(moves.abs().max()), moves.to(x.device)
    padded = F.pad(x, [margin] * 4)
    rows = torch.arange(height, device=x.device) + margin - moves[:, :1]
    columns = torch.arange(width, device=x.device) + margin - moves[:, 1:]
    images = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
