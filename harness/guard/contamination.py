"""Detects changes by which one row of a table would affect later rows, since all rows run in one process.

Defenses and attacks get copies of images and labels, and the global generators are restored after every call. State
that cannot be copied is compared before and after: the settings of the process, the states of all defenses, the run's
images. A change is reported as an error of the code that made it, and is undone.

Comparing all values of a defense takes 0.4 s per GB. After every call, the defense that was called is compared in full,
and the other defenses by a quick fingerprint, which detects every write through PyTorch and every change of a whole
tensor. Each defense is compared in full again before it is used (`Guard.compare`). So every change is detected before
the next use of the changed defense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from harness.errors import Failed, UserError
from harness.guard.fingerprint import checksum, digest_of_values, fingerprint, quick_fingerprint
from harness.guard.process_settings import Settings

SHOWN = 3
"""The largest number of changes that a message names."""


class Contamination(Failed):
    """A defense or an attack changed state on which other results depend."""


@contextmanager
def settings_kept(culprit: str) -> Iterator[None]:
    """Restores settings of the process that the code inside the block changes.

    Raises:
        Contamination: settings were changed, and the code raised nothing itself. culprit: the subject of the message.
    """
    before = Settings.now()
    try:
        yield
    except BaseException:
        before.restore()
        raise
    if changed := before.restore():
        raise Contamination(f"{culprit} changes {_listed(changed)}, under which every later row would run")


class Guard:
    """Remembers the states of the defenses and the images of a run, and reports changes.

    Attributes:
        spoiled: names of defenses that were changed and must be built again.

    Args:
        images: the run's images and labels, which nothing may change.
    """

    def __init__(self, *images: Tensor) -> None:
        self.spoiled: set[str] = set()
        self._images, self._sums = images, [checksum(tensor) for tensor in images]
        self._defenses: dict[str, tuple[nn.Module, dict[str, object]]] = {}
        self._quick: dict[str, dict[str, object]] = {}

    def add(self, name: str, defense: nn.Module) -> bool:
        """Watches a defense from now on. Returns False if an earlier defense of this name had another state."""
        now = fingerprint(defense)
        known = self._defenses.get(name)
        self.spoiled.discard(name)
        self._defenses[name], self._quick[name] = (defense, now), quick_fingerprint(defense)
        return known is None or not _differences(known[1], now)

    def forget(self, name: str) -> None:
        """Stops watching a defense, because it could not be built again."""
        self.spoiled.discard(name)
        self._defenses.pop(name, None)

    def digest(self, name: str) -> str:
        """A digest of a defense's parameters, buffers and training modes when it was added: the same in any process."""
        return digest_of_values(self._defenses[name][1])

    def compare(self, name: str) -> str | None:
        """Compares all values of a defense with its state when it was added. A changed defense counts as spoiled.

        Returns:
            A description of the changes with the name of the defense, or None if there are no new changes.
        """
        return self._changed(name, f"defense '{name}'")

    @contextmanager
    def watching(self, culprit: str, own: nn.Module | None = None, *, others: bool = False) -> Iterator[None]:
        """Checks whether the code inside the block changes anything, and restores settings.

        Args:
            culprit: the subject of the message, such as "attack 'linf'".
            own: the defense that the code uses.
            others: whether to compare the quick fingerprints of the other defenses too. Otherwise, these are compared
                only if `own` has changed.

        Raises:
            Contamination: the code changed something, and raised nothing itself.
        """
        settings = Settings.now()
        try:
            yield
        except BaseException:
            settings.restore()
            self._changes(own, others)
            raise
        if changed := settings.restore() + self._changes(own, others):
            raise Contamination(f"{culprit} changed {_listed(changed)}, on which other results depend")

    def refuse_other_images(self, culprit: str) -> None:
        """Raises UserError if the run's images or labels have changed: all later results would be wrong."""
        if [checksum(tensor) for tensor in self._images] != self._sums:
            raise UserError(
                f"{culprit} changed the images or labels of the run itself",
                remedy="Let it work on the copies that it gets, and run the same command again",
            )

    def _changes(self, own: nn.Module | None, others: bool) -> list[str]:
        mine = [name for name, (defense, _) in self._defenses.items() if defense is own]
        changed = [what for name in mine if (what := self._changed(name, "the defense"))]
        theirs = sorted(self._defenses.keys() - {*mine})
        if not changed:  # what changes its own defense may have changed the others in any way
            theirs = [name for name in theirs if others and self._seems_changed(name)]
        return changed + [what for name in theirs if (what := self.compare(name))]

    def _seems_changed(self, name: str) -> bool:
        """Tells whether the quick fingerprint of a defense differs from the previous one."""
        before, self._quick[name] = self._quick[name], quick_fingerprint(self._defenses[name][0])
        return before != self._quick[name]

    def _changed(self, name: str, title: str) -> str | None:
        """Describes what has changed in a defense; None if nothing has, or if the change is already known."""
        defense, before = self._defenses[name]
        if name in self.spoiled or not (different := _differences(before, fingerprint(defense))):
            return None
        self.spoiled.add(name)
        return f"{_listed(different)} of {title}"


def _differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _listed(changed: Iterable[str]) -> str:
    changed = list(changed)
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return ", ".join(changed[:SHOWN]) + more
