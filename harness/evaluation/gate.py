"""What a run looks at before it attacks a defense: a number of one that fails here would mean nothing, or little."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from harness.checks import LOOKED_AT, Use, gates, misshapen, unlike_its_card
from harness.checks.gradient_noise import MOST_IMAGES, GradientNoise, gradient_noise
from harness.errors import UserError
from harness.evaluation.clean import CleanPredictions
from harness.evaluation.context import RunContext
from harness.evaluation.defenses import Defenses
from harness.evaluation.examined import evaluations_of
from harness.evaluation.pending import CellRun
from harness.evaluation.together import images_together
from harness.guard.contamination import Contamination, Guard
from harness.guard.doubt import too_noisy
from harness.predict import Predictions

PAIR = 2
"""Images that show the shape of what a defense returns; with one, a row could be taken for a batch."""


class Gate:
    """Looks at the defenses of a run.

    Args:
        context, defenses, clean, guard: of this process.
    """

    def __init__(self, context: RunContext, defenses: Defenses, clean: CleanPredictions, guard: Guard) -> None:
        self._context, self._defenses, self._clean, self._guard = context, defenses, clean, guard

    def remarks(self, needed: list[CellRun]) -> dict[str, list[str]]:
        """What there is to remark on each defense, by its name. needed: pairings with something left to do.

        Raises:
            UserError: a defense does not return logits of the dataset's classes, whatever the suite says; or it fails a
                gate, and the suite says to stop.
        """
        policy = self._context.protocol.gates
        looked_at = {run.cell.defense.name: run for run in needed if run.cell.defense.name in self._defenses.built}
        for cell_run in looked_at.values():
            self._refuse_misshapen(cell_run)
        if policy == "off":
            return {}
        remarks = {name: self._remarks(cell_run) for name, cell_run in looked_at.items()}
        for name, lines in remarks.items():
            if lines and policy == "stop":
                raise UserError(
                    f"defense '{name}' failed a gate: {'; '.join(lines)}",
                    remedy="Correct it, or set `protocol: {gates: mark}` to run it with its numbers marked",
                    where=self._context.plan.place("defenses", name),
                )
            for line in lines:
                self._context.callback.note(f"{name}: {line}; its numbers will be marked")
        return remarks

    def gradient_noise(self, needed: list[CellRun]) -> dict[str, GradientNoise | None]:
        """The noise of the gradients that each attack meets, by `DEFENSE/ATTACK`; nothing where the gates are off.

        It is no fault of a defense, and never stops a run. A note warns of numbers that will be marked.
        """
        if self._context.protocol.gates == "off":
            return {}
        found = {}
        for cell_run in sorted(needed, key=lambda run: run.cell.defense.name):  # so that each comes to work once
            noise = found[cell_run.name] = self._gradient_noise(cell_run)
            if noise and noise.cosine < (least := cell_run.attack.least_cosine()):
                why = too_noisy(noise.cosine, least, noise.images)
                self._context.callback.note(f"{cell_run.name}: {why}; its number will be marked")
        return found

    def together(self, needed: list[CellRun]) -> dict[str, int]:
        """How many images of each defense are attacked together, by its name."""
        joining = (run for run in needed if run.attack.is_independent() and len(run.shards) > 1)
        runs = {cell_run.cell.defense.name: cell_run for cell_run in joining}
        return {name: self._together(cell_run) for name, cell_run in runs.items()}

    def _together(self, cell_run: CellRun) -> int:
        name, protocol = cell_run.cell.defense.name, self._context.protocol
        if (defense := self._defenses.at_work(name)) is None:
            return 1
        found = 1
        with suppress(Contamination), self._guard.watching("answering", defense, others=True):
            evaluations, x = evaluations_of(defense)[0], self._first_images(1)
            found = images_together(defense, evaluations, x, cell_run.seeds, protocol)
        self._defenses.rebuild(cell_run.cell.defense.title)
        return found

    def _gradient_noise(self, cell_run: CellRun) -> GradientNoise | None:
        name, context = cell_run.cell.defense.name, self._context
        if (defense := self._defenses.at_work(name)) is None or not defense.stochastic:
            return None
        images, found = context.images.take(slice(MOST_IMAGES)).to(context.device), None
        with suppress(Contamination), self._guard.watching("measuring gradients", defense, others=True):
            found = gradient_noise(
                defense,
                cell_run.cell.attack.build(),  # of its own, since an attack may remember what it did
                images,
                cell_run.seeds.gradient_noise(images.index),
                of=len(context.images),
                votes=context.protocol.votes,
                batch_size=context.protocol.batch_size,
            )
        self._defenses.rebuild(cell_run.name)
        return found

    def _refuse_misshapen(self, cell_run: CellRun) -> None:
        """Refuses a defense that returns no logits, or logits of other classes: the suite is mistaken."""
        component = cell_run.cell.defense
        if (defense := self._defenses.at_work(component.name)) is None:
            return
        images, unfit = self._first_images(PAIR), None
        with suppress(Contamination), self._guard.watching("answering", defense, others=True):  # its records will say
            unfit = misshapen(defense, images, self._context.dataset.disagreement)
        self._defenses.rebuild(component.title)
        if unfit:
            what, remedy = unfit
            raise UserError(f"defense '{component.name}': {what}", remedy=remedy, where=component.place)

    def _remarks(self, cell_run: CellRun) -> list[str]:
        name, context = cell_run.cell.defense.name, self._context
        if (defense := self._defenses.at_work(name)) is None:
            return []
        attacks = [other.attack for other in context.cell_runs if other.cell.defense.name == name]
        use = Use.of(defense, attacks, len(context.images), context.dataset.num_classes, context.protocol.votes)
        lines = []
        try:
            with self._guard.watching("answering", defense, others=True):
                lines += gates(defense, self._first_images(LOOKED_AT), use)
        except Contamination as error:
            lines.append(f"contamination: {error.message}")
            self._defenses.rebuild(f"defense '{name}'")
        if defense.expected_accuracy is not None and defense.expected_dataset == context.dataset.name:
            first = next(iter(cell_run.shards))
            clean = self._clean.of(cell_run, first)
            if isinstance(clean, Predictions):
                right = clean.votes == context.images.take(slice(*first)).y
                lines += unlike_its_card(right.float().mean().item(), right.shape[1], defense.expected_accuracy)
        return lines

    def _first_images(self, count: int) -> Tensor:
        """The first images, no more at once than the suite allows, (N, C, H, W)."""
        count = min(count, max(PAIR, self._context.protocol.batch_size))
        return self._context.images.take(slice(count)).x.to(self._context.device)
