"""The defenses of a process: built once, watched, and built again where something changed them."""

from __future__ import annotations

from harness.config.component import Component
from harness.defense import Defense
from harness.errors import Failed, UserError
from harness.evaluation.context import RunContext
from harness.evaluation.pending import CellRun
from harness.guard.contamination import Guard
from harness.suite.build import build_defense, refuse_unsuitable
from harness.weights.checkpoint import checkpoints


class Defenses:
    """Those that were prepared. They wait on the CPU; the one at work is on the process's device.

    A defense that cannot be built costs its own pairings only. One that was changed by other code is noticed before it
    is used again, and built anew, so that no row rests on what an earlier one left behind.

    Attributes:
        built: by name.
        broken: by name, why there is none.

    Args:
        context: of the run, in this process.
        guard: of this process.
    """

    def __init__(self, context: RunContext, guard: Guard) -> None:
        self.built: dict[str, Defense] = {}
        self.broken: dict[str, str] = {}
        self._context, self._guard = context, guard
        self._users = {cell_run.cell.defense.name: cell_run for cell_run in context.cell_runs}
        self._at_work: str | None = None

    def prepare(self, cell_run: CellRun) -> None:
        """Builds what a pairing needs and refuses what cannot work, before anything is attacked.

        Raises:
            UserError: the defense cannot be what the suite wants, or the attack does not suit it.
        """
        component = cell_run.cell.defense
        if component.name not in self.built and component.name not in self.broken:
            if defense := self._build(cell_run):
                for checkpoint in checkpoints(component):
                    for note in checkpoint.notes:
                        self._context.callback.note(f"{component.name}: {checkpoint.ref}: {note}")
                self.built[component.name] = defense
                self._guard.add(component.name, defense)
            self.rebuild(component.title)
        if component.name in self.built:
            defense = self.built[component.name]
            refuse_unsuitable(cell_run.cell, cell_run.attack, defense, self._context.shape)

    def refuse_other_values(self, name: str, values: str) -> None:
        """Makes sure that a defense is the one that was examined, perhaps by another process.

        Args:
            values: the digest of its parameters and buffers then, see `Guard.digest`.

        Raises:
            UserError: it is another.
        """
        if name in self.built and self._guard.digest(name) != values:
            component = self._users[name].cell.defense
            raise UserError(
                f"{component.title} has other weights each time it is built, or what it is built from has changed",
                remedy="Let its constructor draw from the global generators or a seeded one, keep its files as they "
                "are during a run, and run the same command again",
                where=component.place,
            )

    def at_work(self, name: str) -> Defense | None:
        """A defense on the device, as it was built; None if it is broken. The one before it goes back to the CPU.

        One that comes to work is compared as a whole with what it was: others may have been at work since.
        """
        if name != self._at_work:
            self.rest()
            if name in self.built and (changed := self._guard.compare(name)):
                self._context.callback.note(f"{changed} was changed while others were at work; it is built anew")
                self.rebuild("other code")
        if name not in self.built:
            return None
        self._at_work = name
        return self.built[name].to(self._context.device)

    def rest(self) -> None:
        """No defense is at work: all of them are on the CPU."""
        if self._at_work in self.built:
            self.built[self._at_work].cpu()
        self._at_work = None

    def rebuild(self, culprit: str) -> None:
        """Builds anew what was changed, so that other rows are what they would have been without the culprit.

        Args:
            culprit: who changed it, the subject of a sentence.

        Raises:
            UserError: the run's own images were changed.
        """
        self._guard.refuse_other_images(culprit)
        while spoiled := sorted(self._guard.spoiled):  # each turn mends one of them, or gives it up
            self._rebuild(self._users[spoiled[0]], culprit)

    def _rebuild(self, cell_run: CellRun, culprit: str) -> None:
        component, why = cell_run.cell.defense, ""
        del self.built[component.name]
        try:
            if (defense := self._build(cell_run)) is None:
                return
            if self._guard.add(component.name, defense):
                self.built[component.name] = defense
                return
        except UserError as error:  # what it is built from was changed too
            why = f": {error.message}"
        message = f"{component.title} cannot be made again as it was before {culprit} changed it{why}"
        self._give_up(component, Failed(message, where=component.place))

    def _build(self, cell_run: CellRun) -> Defense | None:
        """A defense as it is evaluated; None, with a note, where its code fails."""
        component = cell_run.cell.defense
        self.rest()
        try:
            with self._guard.watching(f"building {component.title}", others=True):
                return build_defense(component, self._context.dataset, identity=cell_run.parts[0])
        except Failed as error:
            self._give_up(component, error)
            return None

    def _give_up(self, component: Component, error: Failed) -> None:
        self.broken[component.name] = error.message
        self._guard.forget(component.name)
        self._context.callback.note(f"{error} Its pairings fail.")
