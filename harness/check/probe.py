"""A defense under examination: calls with every source of randomness fixed, on copies of the images."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from harness.defense import Defense
from harness.randomness import derive, fold, row_seeds

Part = Callable[[Tensor], Tensor]
"""A defense, or its purify or classify."""


LOOKED_AT = 8
"""Images that every rule but that on accuracy takes."""


class Probe:
    """What rules look at: `x`, the first `LOOKED_AT` of the images that are given, and all of them as `labelled`.

    Args:
        defense: as a run would use it: on its device, in evaluation mode.
        x: images, (N, C, H, W) float32 in [0, 1], N >= 2, on the same device.
        y: their labels, (N,) int64, if known.
        dataset: its name, if they are of one that a card may speak of.
    """

    def __init__(
        self, defense: Defense, x: Tensor, y: Tensor | None = None, seed: int = 0, dataset: str | None = None
    ) -> None:
        self.defense, self.labelled, self.y, self.dataset, self.seed = defense, x.detach(), y, dataset, seed
        self.x = self.labelled[:LOOKED_AT]
        self.ids = torch.arange(len(x), device=x.device)
        self.seeds = self.seeds_of(self.ids[:LOOKED_AT])
        self.other_seeds = fold(self.seeds, 1)

    def seeds_of(self, ids: Tensor) -> Tensor:
        """Of the images at these positions, (N,) int64."""
        return row_seeds(derive(self.seed, "check"), ids)

    def ask(self, x: Tensor | None = None, seeds: Tensor | None = None, part: Part | None = None) -> Tensor:
        """What the defense (or one part of it) makes of images under fixed draws, without gradients."""
        x = self.x if x is None else x
        with torch.no_grad(), self.defense.drawing(self.seeds if seeds is None else seeds):
            return (part or self.defense)(x.clone())

    @cached_property
    def logits(self) -> Tensor:
        return self.ask()

    @cached_property
    def purified(self) -> Tensor:
        return self.ask(part=self.defense.purify)

    @property
    def purifies(self) -> bool:
        return type(self.defense).purify is not Defense.purify

    @cached_property
    def draws_globally(self) -> bool:
        """Whether the defense takes noise from a global generator, which knows nothing of images."""
        with torch.no_grad(), self.defense.drawing(self.seeds):
            before = self._generators()
            self.defense(self.x.clone())
            return self._generators() != before

    def distance(self, logits: Tensor, other: Tensor) -> float:
        """Largest difference, in units of the logits' spread."""
        spread = (self.logits.max() - self.logits.min()).clamp(min=torch.finfo(torch.float32).tiny)
        return float((logits - other).abs().max() / spread)

    def _generators(self) -> tuple[object, ...]:
        _, keys, *position = np.random.get_state()
        states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.x.device)] if self.x.is_cuda else [])]
        drawn = [state.numpy().tobytes() for state in states]
        return (*drawn, np.asarray(keys).tobytes(), *position, random.getstate())
