"""A defense under examination: calls with every source of randomness fixed, on copies of the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from harness.defense import Defense
from harness.predict import draws_globally, exactly, query
from harness.randomness import derive, fold, row_seeds, uniform

Part = Callable[[Tensor], Tensor]
"""A defense, or its purify or classify."""

Disagreement = Callable[[int], tuple[str, str] | None]
"""Why so many logits are not one per class, and what to do about it; None where they are."""

LOOKED_AT = 8
"""Images that every check takes, but for the one on accuracy."""

FAINT, STRONG = 1 / 255, 0.5
"""Noise on the first and on the last of the images in `Probe.near`."""

EQUAL = 1e-5
"""Difference of two equal computations, relative to the spread of the logits, that float rounding explains."""

ROUNDED = 1e-3
"""The same for computations in another order, such as another batch size."""

AMPLIFIED = 5e-2
"""The same, at most, for a defense that amplifies rounding, by steps along the sign of a gradient say."""

NUDGE = 1e-4
"""A change of every pixel which moves logits more than float rounding does, on any device."""

NEAR, NUDGED = derive("near"), derive("nudged")


class Probe:
    """What checks look at: `x`, the first `LOOKED_AT` of the images that are given, and all of them as `labelled`.

    Args:
        defense: as a run would use it: on its device, in evaluation mode.
        x: images, (N, C, H, W) float32 in [0, 1], on the same device; two or more, or some checks are skipped.
        y: their labels, (N,) int64, if known.
        dataset: its name, if they are of one that a card may describe.
        disagreement: why so many logits cannot be those of the images' classes, and the remedy; None if they can.
        repeats: how often one check calls the defense on the same images, to find rare randomness.
    """

    def __init__(
        self,
        defense: Defense,
        x: Tensor,
        y: Tensor | None = None,
        seed: int = 0,
        dataset: str | None = None,
        *,
        disagreement: Disagreement | None = None,
        repeats: int = 0,
    ) -> None:
        self.defense, self.labelled, self.y, self.dataset, self.seed = defense, x.detach(), y, dataset, seed
        self.disagreement, self.repeats = disagreement, repeats
        self.x = self.labelled[:LOOKED_AT]
        self.ids = torch.arange(len(x), device=x.device)
        self.seeds = self.seeds_of(self.ids[:LOOKED_AT])
        self.other_seeds = fold(self.seeds, 1)
        self.called: list[nn.Module] = []
        self.changed: dict[str, float] = {}
        """By part that writes into the images it is given: by how much."""

    def seeds_of(self, ids: Tensor) -> Tensor:
        """Of the images at these positions, (N,) int64."""
        return row_seeds(derive(self.seed, "check"), ids)

    def ask(self, x: Tensor | None = None, seeds: Tensor | None = None, part: Part | None = None) -> Tensor:
        """What the defense (or one part of it) makes of images under fixed draws, without gradients, in float32."""
        answer = self._raw(self.x if x is None else x, self.seeds if seeds is None else seeds, part)
        return answer.float()

    @cached_property
    def answer(self) -> Any:
        """Whatever the defense returns, which should be logits. The modules that it calls are in `called`."""
        with _watched(self.called):
            return self._raw(self.x, self.seeds)

    @cached_property
    def logits(self) -> Tensor:
        logits: Tensor = self.answer.float()
        return logits

    @cached_property
    def purified(self) -> Tensor:
        """Of whatever type purify makes them."""
        return self._raw(self.x, self.seeds, self.defense.purify) if self.purifies else self.x

    @property
    def purifies(self) -> bool:
        return self.defense.defines("purify")

    @cached_property
    def near(self) -> Tensor:
        """The images with uniform noise, of `FAINT` on the first to `STRONG` on the last, (N, C, H, W)."""
        steps = torch.linspace(math.log(FAINT), math.log(STRONG), len(self.x), device=self.x.device).exp()
        return (self.x + steps.view(-1, 1, 1, 1) * self._signed(NEAR)).clamp(0, 1)

    @cached_property
    def again(self) -> float:
        """Distance of two calls under the same seeds."""
        return self.distance(self.logits, self.ask())

    @cached_property
    def under_other_seeds(self) -> float:
        """Distance of two calls under two seeds."""
        return self.distance(self.logits, self.ask(seeds=self.other_seeds))

    @property
    def steady(self) -> bool:
        """Whether two calls that should agree do."""
        return self.explains(self.again if self.defense.stochastic else self.under_other_seeds)

    @property
    def draws_globally(self) -> bool:
        """Whether the defense takes noise from a global generator, which knows nothing of images."""
        _ = self.logits
        return draws_globally(self.defense)

    def distance(self, logits: Tensor, other: Tensor) -> float:
        """Largest difference, in units of the logits' spread; infinite where one is not finite."""
        spread = (self.logits.max() - self.logits.min()).clamp(min=torch.finfo(torch.float32).tiny)
        found = float((logits - other).abs().max() / spread)
        return found if math.isfinite(found) else math.inf

    def explains(self, distance: float) -> bool:
        """Whether float rounding makes equal computations differ so. On a CPU, equal ones agree to the bit."""
        return distance <= EQUAL or (self.x.device.type != "cpu" and distance <= self.amplified)

    @cached_property
    def amplified(self) -> float:
        """Distance that float rounding explains between two computations in another order, as this defense is.

        It is at most what a change of `NUDGE` to every pixel does, which is much larger than any rounding.
        """
        nudged = (self.x + NUDGE * self._signed(NUDGED)).clamp(0, 1)
        return min(AMPLIFIED, self.distance(self.logits, self.ask(nudged)))

    def _signed(self, tag: int) -> Tensor:
        """Uniform noise in [-1, 1), (N, C, H, W)."""
        return 2 * uniform(fold(self.seeds, tag), self.x.shape[1:]) - 1

    def _raw(self, x: Tensor, seeds: Tensor, part: Part | None = None) -> Tensor:
        def looked_at(given: Tensor) -> Tensor:
            before = given.clone()
            answer = (part or self.defense)(given)
            if change := float((given - before).abs().max()):
                self.changed.setdefault(getattr(part, "__name__", "forward"), change)
            return answer

        with torch.no_grad(), exactly():
            return query(self.defense, x, seeds, looked_at)


@contextmanager
def _watched(called: list[nn.Module]) -> Iterator[None]:
    """Adds every module that is called inside to a list, as often as it is called."""

    def note(module: nn.Module, given: Any) -> None:
        called.append(module)

    handle = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()
