"""How the harness asks a defense anything: each image under a seed of its own, whatever else is in the batch.

Noise that a defense takes from a global generator belongs to a batch: which numbers an image gets depends on how many
images come before it. A batch in which that is seen to happen is asked again, image by image, each under its own seed,
and so is every later batch of that defense.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.defense import Defense
from harness.guard.contamination import settings_kept


def query(defense: Defense, x: Tensor, seeds: Tensor, part: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """What a defense makes of copies of images, every source of randomness fixed.

    Args:
        x: images, (N, C, H, W) in [0, 1]; seeds: one per image, (N,) int64.
        part: the part of the defense that is asked, such as its `purify`; the whole of it if left out.

    Returns:
        What the part returns, a row per image: logits (N, K), or images (N, C, H, W).

    Raises:
        Contamination: the defense changed settings of the process, which are set back.
    """
    part = part or defense
    if len(x) == 1 or not draws_globally(defense):
        with settings_kept("answering"), defense.drawing(seeds) as drawn:
            answer = part(x.clone())  # what it writes into its input stays there
            if len(x) == 1 or not isinstance(answer, Tensor) or not drawn():
                return answer
        defense._one_by_one = True
    return torch.cat([query(defense, *row, part) for row in zip(x.split(1), seeds.split(1), strict=True)])


def draws_globally(defense: Defense) -> bool:
    """Whether a defense was seen to draw from a global generator, in any call so far."""
    return defense._one_by_one
