"""The checks of a defense's contract, in order. `harness check` makes all of them, and a run as many as it can afford.

A run checks what its numbers depend on, before it attacks anything. Every check has a cost in forward passes; together
they take at most `SHARE` of the passes of the run itself, or as many as `FREE` network evaluations allow. The checks in
`ALWAYS` are made in any case. Which checks are made depends on the suite alone, never on a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.attack import UNKNOWN_CLASSES, Attack, Cost
from harness.checks import device_move, forward, gradient, mode, output, preprocessing, repetition
from harness.checks.finding import Check, Finding
from harness.checks.probe import Disagreement, Probe
from harness.defense import Defense
from harness.gradients import Gradient
from harness.process.foreign_code import contained

ESSENTIAL: tuple[Check[Probe], ...] = (forward.runs, output.shape, forward.device, forward.finite)
"""Where one of these fails, the other checks cannot be made."""

CHECKS: tuple[Check[Probe], ...] = (
    forward.dtype,
    forward.purified,
    forward.not_probabilities,
    forward.unsaturated,
    mode.evaluation_mode,
    device_move.movable,
    repetition.stochastic,
    repetition.reproducible,
    forward.batch_independence,
    repetition.near_the_images,
    forward.images_kept,
    forward.composition,
    forward.smoothing,
    gradient.while_gradients_are_taken,
    gradient.classify_gradient,
    gradient.purify_gradient,
    gradient.forward_gradient,
    gradient.bpda_gradient,
    gradient.classify_differences,
    gradient.purify_differences,
    preprocessing.first_layer,
    preprocessing.accuracy,
    repetition.over_many_calls,
)

ALWAYS = (repetition.stochastic,)
"""Made by every run, whatever they cost: undeclared randomness would turn one lucky draw into a robust image."""

SHARE = 0.01
"""Share of a run's passes that its gates may take. Their passes take no gradient, and most of the run's do."""

FREE = 256.0
"""Network evaluations of one image that the gates may take in any run."""

REPEATS = 64
"""Calls that must agree: noise in one call of ten is missed with probability 0.9^64 = 0.001."""

REPEATED = 2
"""Images in each of these calls."""

FEW = 8
"""Calls in `harness check` that must agree, however slow the defense."""


@dataclass(frozen=True)
class Use:
    """What a run will do with a defense.

    Args:
        passes: images that the run sends through the defense, at most.
        views: how attacks will differentiate it; none where no attack takes a gradient.
    """

    passes: float
    views: frozenset[Gradient] = frozenset()

    @classmethod
    def of(cls, defense: Defense, attacks: Sequence[Attack], images: int, classes: int | None, votes: int) -> Use:
        """What attacking this many images takes, the verdicts included. classes: of the dataset, if known."""
        classes = classes or defense.num_classes or UNKNOWN_CLASSES
        passes, views = 0.0, frozenset[Gradient]()
        for attack in attacks:
            try:
                with contained():
                    cost = attack.cost(classes)
            except Exception:  # only the gates' budget depends on it; `harness show` reports the mistake
                cost = Cost(0, 0)
            draws = 2 * (votes if defense.stochastic else 1)
            passes += images * (draws + cost.forwards + defense.backward_cost * cost.backwards)
            views |= attack.views() if cost.backwards else frozenset()
        return cls(passes, views)


def check_defense(
    defense: Defense,
    x: Tensor,
    y: Tensor | None = None,
    seed: int = 0,
    *,
    dataset: str | None = None,
    disagreement: Disagreement | None = None,
) -> list[Finding]:
    """Makes every check of the contract of a defense.

    Args:
        defense: as a run would use it: on its device, in evaluation mode.
        x: images, (N, C, H, W) float32 in [0, 1], N >= 2, on the same device. Eight are enough; more of
            them make the accuracy more certain.
        y: their labels, (N,) int64, for the accuracy.
        seed: of the draws, directions and projections.
        dataset: the one whose test split they are of, to compare the accuracy with the one on the defense's card.
        disagreement: why so many logits cannot be those of its classes, see `datasets.Dataset.disagreement`.
    """
    repeats = max(FEW, min(REPEATS, int(FREE / max(1.0, defense.cost()) / REPEATED)))
    probe = Probe(defense, x, y, seed, dataset, disagreement=disagreement, repeats=repeats)
    findings = _essential(probe)
    if findings[-1].status == "failed":
        return findings
    return findings + [check(probe) for check in CHECKS]


def gates(defense: Defense, x: Tensor, use: Use | None = None) -> list[str]:
    """What of its contract a defense breaks, one sentence each, by those checks that a run needs and can afford.

    Args:
        x: images, as for `check_defense`; `LOOKED_AT` at most are looked at.
        use: what the run will do with the defense; left out, only `FREE` network evaluations are made.
    """
    use = use or Use(0)
    free = FREE / max(1.0, defense.cost())
    left = max(SHARE * use.passes, free)
    repeats = min(REPEATS, max(free, left / 8) // REPEATED)
    probe = Probe(defense, x)
    findings = _essential(probe)
    left -= len(probe.x) * (2 if probe.purifies else 1)
    for check in CHECKS if findings[-1].status != "failed" else ():
        price = len(probe.x) * (check.passes or 0)
        if _wanted(check, use) and (price <= left or check in ALWAYS):
            probe.repeats = int(min(repeats, left // REPEATED))
            findings.append(check(probe))
            left -= price
    return [f"{found.name}: {found.message}" for found in findings if found.status == "failed"]


def _wanted(check: Check[Probe], use: Use) -> bool:
    """Whether a run's numbers can depend on what a check is about."""
    if check is forward.composition:
        return bool(use.views - {"exact"})
    if check in (gradient.classify_gradient, gradient.while_gradients_are_taken):
        return bool(use.views)
    return check.passes is not None


def _essential(probe: Probe) -> list[Finding]:
    findings: list[Finding] = []
    for check in ESSENTIAL:
        findings.append(check(probe))
        if findings[-1].status == "failed":
            break
    return findings
