"""How the harness calls a defense: each image has a seed of its own, independent of the rest of the batch.

`query` is the only place that calls a defense. `predict_votes` makes the predictions behind a verdict: it classifies
with the real defense under the harness's own noise, independently of what the attack observed.

Noise that a defense takes from a global generator belongs to a batch: which numbers an image gets depends on how many
images come before it. If that happens in a batch, the batch is evaluated again image by image, each under its own seed,
and so is every later batch of that defense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.defense import Defense
from harness.guard.contamination import settings_kept
from harness.randomness import Seeds, fold, sum_of, worked_out
from harness.search import Narrowing, gather, split_of


def query(
    defense: Defense,
    x: Tensor,
    seeds: Seeds,
    part: Callable[[Tensor], Tensor] | None = None,
    *,
    narrowing: Narrowing | None = None,
) -> Tensor:
    """Evaluates a defense on copies of images, with every source of randomness fixed.

    Args:
        x: images, (N, C, H, W) in [0, 1]; seeds: one per image, (N,) int64.
        part: the part of the defense to evaluate, such as its `purify`; by default the whole defense.
        narrowing: what the defense may leave out, in a search; by default nothing.

    Returns:
        What the part returns, with one row per image: logits (N, K), or images (N, C, H, W).

    Raises:
        Contamination: the defense changed settings of the process; they are restored.
    """
    part = part or defense
    if not draws_globally(defense):
        with settings_kept("answering"), defense.drawing(seeds, narrowing) as drawn:
            answer = part(x.clone())  # the defense may write into the copy
            if not drawn() or not isinstance(answer, Tensor):
                return answer
        defense._one_by_one = True
    narrowings = split_of(narrowing, len(x), 1)
    rows = zip(x.split(1), worked_out(seeds).split(1), narrowings, strict=True)
    answers = torch.cat([_alone(defense, image, seed, part, own) for image, seed, own in rows])
    gather(narrowing, narrowings)
    return answers


def _alone(
    defense: Defense, x: Tensor, seed: Tensor, part: Callable[[Tensor], Tensor], narrowing: Narrowing | None
) -> Tensor:
    """Evaluates one image with the global generators seeded by its own seed; the host waits to read that seed."""
    with settings_kept("answering"), defense.drawing(seed, narrowing, global_seed=sum_of(seed)):
        return part(x.clone())


def draws_globally(defense: Defense) -> bool:
    """Whether a defense drew from a global generator in any call so far."""
    return defense._one_by_one


@dataclass(frozen=True)
class Predictions:
    """Predicted classes and margins (true-class logit minus the largest other), both (votes, N), on the CPU.

    A NaN logit makes the margin NaN, and the prediction -1.
    """

    votes: Tensor
    margins: Tensor

    @property
    def valid(self) -> Tensor:
        """Whether all draws of an image gave finite logits, (N,) bool."""
        return ~(self.votes < 0).any(0)

    def part(self, which: slice) -> Predictions:
        """Of some of the images."""
        return Predictions(self.votes[:, which], self.margins[:, which])

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Of the images of all parts, in order."""
        return cls(torch.cat([part.votes for part in parts], 1), torch.cat([part.margins for part in parts], 1))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The true class's logit minus the largest other: positive if the image is classified correctly. Differentiable.

    Args:
        logits: (N, K), K at least 2; y: labels, (N,) int64 on the same device.

    Returns:
        (N,). Attacks maximise its negative.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([1.])
    """
    return logits.gather(1, y[:, None]).squeeze(1) - logits.scatter(1, y[:, None], -torch.inf).amax(1)


def predict_votes(defense: Defense, x: Tensor, y: Tensor, seeds: Tensor, *, votes: int, batch_size: int) -> Predictions:
    """Classifies each image `votes` times (once if the defense is deterministic), in float32, without gradients.

    Args:
        x: images, (N, C, H, W) in [0, 1]; y: labels, (N,) int64; seeds: one per image, (N,) int64.
    """
    return predictions(draw_logits(defense, x, seeds, votes=votes, batch_size=batch_size), y)


def draw_logits(defense: Defense, x: Tensor, seeds: Tensor, *, votes: int, batch_size: int) -> Tensor:
    """The logits behind `predict_votes`, (votes, N, K) float32 on the CPU; one draw of a deterministic defense."""
    draws = votes if defense.stochastic else 1
    return torch.stack([_logits(defense, x, fold(seeds, draw), batch_size) for draw in range(draws)])


def predictions(logits: Tensor, y: Tensor) -> Predictions:
    """Reads predictions off logits. logits: (votes, N, K); y: labels, (N,) int64."""
    votes, margins = zip(*(_read(draw, y.cpu()) for draw in logits), strict=True)
    return Predictions(torch.stack(votes), torch.stack(margins))


@torch.no_grad()
def _logits(defense: Defense, x: Tensor, seeds: Tensor, batch_size: int) -> Tensor:
    batches = zip(x.split(batch_size), seeds.split(batch_size), strict=True)
    with exactly():
        return torch.cat([query(defense, images, part_seeds) for images, part_seeds in batches]).float().cpu()


@contextmanager
def exactly() -> Iterator[None]:
    """Computes in full float32: TensorFloat-32, torch's default for convolutions on a GPU, could flip a vote."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def _read(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    finite = torch.isfinite(logits).all(1)
    return torch.where(finite, logits.argmax(1), -1), torch.where(finite, margin(logits, y), torch.nan)
