"""What the gates of a run remarked on a defense, compared with what they remark on this machine.

The longer a run is, the more checks its gates make. The free ones are made in every run: what they find now, the run
must have found. A remark that is recorded and that the gates do not repeat may have been made by
chance, on another machine, or in a run of more attacks: it could not be verified.

The noise of the gradients that an attack meets follows from the seeds, and is measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.attack import Attack
from harness.checks import LOOKED_AT, Use, gates, unlike_its_card
from harness.checks.gradient_noise import GradientNoise
from harness.config.component import Component
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.guard.doubt import too_noisy
from harness.results.facts import CellFacts, NoiseFacts
from harness.results.manifest import Manifest
from harness.verification.cell_report import CellReport
from harness.verification.inputs import Attacked
from harness.verification.replay import ReplayedPredictions
from harness.weights.checkpoint import checkpoints

MOVED = 0.02
"""Difference of two measured cosines that float rounding explains."""


@dataclass(frozen=True)
class Remarks:
    """certain: those that any run makes; possible: those that a run of all the attacks makes. Both as sentences."""

    certain: tuple[str, ...]
    possible: tuple[str, ...]

    def judge(self, report: CellReport, facts: CellFacts, policy: str) -> None:
        """Adds to a pairing's report what its recorded remarks lack, and which of them the gates do not repeat."""
        recorded = {_gate(flag) for flag in facts.flags}
        lacking = [remark for remark in self.certain if _gate(remark) not in recorded]
        if policy == "off":
            report.remarks += [f"the run's gates were off; made now, they find: {remark}" for remark in lacking]
        elif report.environment:
            report.gaps += [f"a gate finds now what the manifest does not say: {remark}" for remark in lacking]
        else:
            report.problems += [f"a gate finds what the manifest does not say: {remark}" for remark in lacking]
        repeated = {_gate(remark) for remark in (*self.certain, *self.possible)}
        report.gaps += [
            f"the gates do not repeat a remark of the manifest: {flag}"
            for flag in facts.flags
            if _gate(flag) not in repeated
        ]


def judge_noise(report: CellReport, facts: CellFacts, policy: str, now: GradientNoise | None) -> None:
    """Compares the recorded noise of the gradients with what is measured now, and adds differences to the report."""
    then = facts.gradient_noise
    if policy == "off" or "gradient_noise" not in facts.model_fields_set:
        if now and facts.least_cosine is not None and now.cosine < facts.least_cosine:
            why = too_noisy(now.cosine, facts.least_cosine, now.images)
            report.remarks.append(f"the run did not measure the noise of gradients; measured now: {why}")
    elif (then is None) != (now is None) or (then and now and abs(then.cosine - now.cosine) > MOVED):
        difference = f"two gradients have a cosine of {_cosine(now)}, the manifest says {_cosine(then)}"
        (report.gaps if report.environment else report.problems).append(difference)


def _cosine(noise: GradientNoise | NoiseFacts | None) -> str:
    return "nothing measured" if noise is None else f"{noise.cosine:.2f}"


def remarks_now(
    component: Component,
    defense: Defense,
    attacks: Sequence[Attack],
    images: Images,
    manifest: Manifest,
    attacked: Attacked,
    clean: ReplayedPredictions | None,
) -> Remarks:
    """What there is to remark on a defense.

    Args:
        component, defense: as the suite describes it, and built, on the images' device.
        attacks: all that the run attacked it with.
        images: the run's first.
        clean: answers of the replay on the first shard's clean images, if they are there.
    """
    x, votes = images.x[:LOOKED_AT], manifest.protocol.votes
    use = Use.of(defense, attacks, manifest.dataset.count, attacked.num_classes, votes)
    weights = [remark for checkpoint in checkpoints(component) for remark in checkpoint.remarks]
    card = _card(defense, manifest, attacked, clean)
    return Remarks((*gates(defense, x), *card, *weights), tuple(gates(defense, x, use)))


def _card(defense: Defense, manifest: Manifest, attacked: Attacked, clean: ReplayedPredictions | None) -> list[str]:
    expected, dataset = defense.expected_accuracy, defense.expected_dataset
    if expected is None or dataset != manifest.dataset.name or clean is None:
        return []
    right = clean.votes == attacked.images.y[: clean.votes.shape[1]]
    return unlike_its_card(right.float().mean().item(), right.shape[1], expected)


def _gate(remark: str) -> str:
    """Which gate a remark is of; its numbers differ between machines."""
    return remark.partition(":")[0]
