"""The rules of a defense's contract, in order."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness.check import forward, gradient, movable, preprocessing
from harness.check.probe import Probe
from harness.check.verdict import Verdict
from harness.defense import Defense

Rule = Callable[[Probe], Verdict]

ESSENTIAL = (forward.runs, forward.shape, forward.device, forward.dtype, forward.finite)
"""Where one of these fails, the others cannot be asked."""

CHEAP = (forward.purified, forward.not_probabilities, forward.unsaturated)

FURTHER = (
    movable.movable,
    forward.images_kept,
    forward.composition,
    forward.batch_independence,
    forward.stochastic,
    forward.reproducible,
    gradient.classify_gradient,
    gradient.purify_gradient,
    gradient.forward_gradient,
    gradient.bpda_gradient,
    gradient.classify_differences,
    gradient.purify_differences,
    preprocessing.first_layer,
    preprocessing.accuracy,
)


def check(
    defense: Defense, x: Tensor, y: Tensor | None = None, seed: int = 0, *, dataset: str | None = None
) -> list[Verdict]:
    """Every rule of the contract, asked of a defense.

    Args:
        defense: as a run would use it: on its device, in evaluation mode.
        x: images, (N, C, H, W) float32 in [0, 1], N >= 2, on the same device. Eight do; where there are more, they
            make the accuracy more certain.
        y: their labels, (N,) int64, for the accuracy.
        seed: of the draws, directions and projections.
        dataset: whose test split they are of, to hold the accuracy against the one on the defense's card.
    """
    return _ask(Probe(defense, x, y, seed, dataset), (*CHEAP, *FURTHER))


def gates(defense: Defense, x: Tensor) -> list[str]:
    """What of the cheap rules a defense breaks, one sentence each: asked before a run. Costs two forward passes."""
    return [f"{v.name}: {v.message}" for v in _ask(Probe(defense, x), CHEAP) if v.status == "failed"]


def _ask(probe: Probe, rules: tuple[Rule, ...]) -> list[Verdict]:
    verdicts = []
    for essential in ESSENTIAL:
        verdicts.append(essential(probe))
        if verdicts[-1].status == "failed":
            return verdicts
    return verdicts + [rule(probe) for rule in rules]
