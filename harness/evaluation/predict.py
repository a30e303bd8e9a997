"""Verdicts: the real defense is asked, under the harness's own draws, whatever the attack believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.defense import Defense
from harness.query import query
from harness.randomness import fold


@dataclass(frozen=True)
class Answers:
    """Predicted classes and margins (true-class logit minus the largest other), both (votes, N), on the CPU.

    A NaN logit makes the margin NaN, and the prediction -1.
    """

    votes: Tensor
    margins: Tensor

    @property
    def valid(self) -> Tensor:
        """(N,): every draw gave finite logits."""
        return ~(self.votes < 0).any(0)


def ask(defense: Defense, x: Tensor, y: Tensor, seeds: Tensor, *, votes: int, batch_size: int) -> Answers:
    """Classifies each image `votes` times (once if the defense is deterministic), in float32, without gradients.

    Args:
        x: images, (N, C, H, W) in [0, 1]; y: labels, (N,) int64; seeds: one per image, (N,) int64.
    """
    return read(drawn(defense, x, seeds, votes=votes, batch_size=batch_size), y)


def drawn(defense: Defense, x: Tensor, seeds: Tensor, *, votes: int, batch_size: int) -> Tensor:
    """The logits behind `ask`, (votes, N, K) float32 on the CPU; one draw of a deterministic defense."""
    draws = votes if defense.stochastic else 1
    return torch.stack([_logits(defense, x, fold(seeds, draw), batch_size) for draw in range(draws)])


def read(logits: Tensor, y: Tensor) -> Answers:
    """The answers in logits. logits: (votes, N, K); y: labels, (N,) int64."""
    votes, margins = zip(*(_read(draw, y.cpu()) for draw in logits), strict=True)
    return Answers(torch.stack(votes), torch.stack(margins))


@torch.no_grad()
def _logits(defense: Defense, x: Tensor, seeds: Tensor, batch_size: int) -> Tensor:
    batches = zip(x.split(batch_size), seeds.split(batch_size), strict=True)
    with exactly():
        return torch.cat([query(defense, images, part_seeds) for images, part_seeds in batches]).float().cpu()


@contextmanager
def exactly() -> Iterator[None]:
    """In full float32: TensorFloat-32, torch's default for convolutions on a GPU, could flip a vote."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def _read(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    finite = torch.isfinite(logits).all(1)
    true = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return torch.where(finite, logits.argmax(1), -1), torch.where(finite, true - other, torch.nan)
