"""The rules of a defense's contract, in order: one list, that `harness check` asks in full and a run as far as it can.

A run asks what its numbers depend on, before it attacks anything. Every rule has a price in forward passes; together
they take at most `SHARE` of the passes of the run itself, or what the first `FREE` network evaluations allow. The first
two rules on randomness are asked in any case. Which rules are asked depends on the suite alone, never on a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.attack import UNKNOWN_CLASSES, Attack, Cost
from harness.checks import device_move, forward, gradient, mode, output, preprocessing, repetition
from harness.checks.probe import Disagreement, Probe
from harness.checks.rule import Rule, Verdict
from harness.defense import Defense
from harness.gradients import Gradient
from harness.process.foreign_code import contained

ESSENTIAL: tuple[Rule[Probe], ...] = (forward.runs, output.shape, forward.device, forward.finite)
"""Where one of these fails, the others cannot be asked."""

RULES: tuple[Rule[Probe], ...] = (
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
"""Asked by every run, whatever it costs: noise that a defense keeps to itself makes a number of one lucky draw."""

SHARE = 0.01
"""Of a run's passes that its gates may take. A pass here takes no gradient; most of the run's do."""

FREE = 256.0
"""Network evaluations of one image that gates may take in any run."""

REPEATS = 64
"""Calls that must agree: noise in one call of ten is missed with probability 0.9^64 = 0.001."""

REPEATED = 2
"""Images in each of them."""

FEW = 8
"""Calls in `harness check` that must agree, however slow the defense."""


@dataclass(frozen=True)
class Use:
    """What a run will do with a defense.

    Args:
        passes: images that it sends through the defense, at most.
        views: how attacks will differentiate it; none where no attack takes a gradient.
    """

    passes: float
    views: frozenset[Gradient] = frozenset()

    @classmethod
    def of(cls, defense: Defense, attacks: Sequence[Attack], images: int, classes: int | None, votes: int) -> Use:
        """What attacking so many images takes, the verdicts included. classes: of the dataset, if known."""
        classes = classes or defense.num_classes or UNKNOWN_CLASSES
        passes, views = 0.0, frozenset[Gradient]()
        for attack in attacks:
            try:
                with contained():
                    cost = attack.cost(classes)
            except Exception:  # only a budget hangs on it here; `harness show` and `harness check` tell of the mistake
                cost = Cost(0, 0)
            draws = 2 * (votes if defense.stochastic else 1)
            passes += images * (draws + cost.forwards + defense.backward_cost * cost.backwards)
            views |= attack.views() if cost.backwards else frozenset()
        return cls(passes, views)


def check(
    defense: Defense,
    x: Tensor,
    y: Tensor | None = None,
    seed: int = 0,
    *,
    dataset: str | None = None,
    disagreement: Disagreement | None = None,
) -> list[Verdict]:
    """Every rule of the contract, asked of a defense.

    Args:
        defense: as a run would use it: on its device, in evaluation mode.
        x: images, (N, C, H, W) float32 in [0, 1], N >= 2, on the same device. Eight do; where there are more, they
            make the accuracy more certain.
        y: their labels, (N,) int64, for the accuracy.
        seed: of the draws, directions and projections.
        dataset: whose test split they are of, to hold the accuracy against the one on the defense's card.
        disagreement: why so many logits cannot be those of its classes, see `datasets.Dataset.disagreement`.
    """
    repeats = max(FEW, min(REPEATS, int(FREE / max(1.0, defense.cost()) / REPEATED)))
    probe = Probe(defense, x, y, seed, dataset, disagreement=disagreement, repeats=repeats)
    verdicts = _essential(probe)
    if verdicts[-1].status == "failed":
        return verdicts
    return verdicts + [rule(probe) for rule in RULES]


def gates(defense: Defense, x: Tensor, use: Use | None = None) -> list[str]:
    """What of the contract a defense breaks, one sentence each, as far as a run needs it and has time to ask.

    Args:
        x: images, as for `check`; `LOOKED_AT` at most are looked at.
        use: what the run will do with the defense; nothing but what is free of charge if left out.
    """
    use = use or Use(0)
    free = FREE / max(1.0, defense.cost())
    left = max(SHARE * use.passes, free)
    repeats = min(REPEATS, max(free, left / 8) // REPEATED)
    probe = Probe(defense, x)
    verdicts = _essential(probe)
    left -= len(probe.x) * (2 if probe.purifies else 1)
    asked = RULES if verdicts[-1].status != "failed" else ()
    for rule in asked:
        price = len(probe.x) * (rule.passes or 0)
        if _wanted(rule, use) and (price <= left or rule in ALWAYS):
            probe.repeats = int(min(repeats, left // REPEATED))
            verdicts.append(rule(probe))
            left -= price
    return [f"{v.name}: {v.message}" for v in verdicts if v.status == "failed"]


def _wanted(rule: Rule[Probe], use: Use) -> bool:
    """Whether a run's numbers can depend on what a rule asks."""
    if rule is forward.composition:
        return bool(use.views - {"exact"})
    if rule in (gradient.classify_gradient, gradient.while_gradients_are_taken):
        return bool(use.views)
    return rule.passes is not None


def _essential(probe: Probe) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for rule in ESSENTIAL:
        verdicts.append(rule(probe))
        if verdicts[-1].status == "failed":
            break
    return verdicts
