"""Whether results directories are of one suite: with the same images, protocol, defenses, attacks, code and weights."""

from __future__ import annotations

from collections.abc import Iterator

from harness.errors import UserError
from harness.results.changes import culprits
from harness.results.json_diff import describe
from harness.results.load import Run
from harness.results.manifest import Manifest
from harness.suite.cell_key import CLAIMED

SHOWN = 5
"""Differences that a message names."""

IMAGES = ("indices", "fingerprint", "name", "split", "num_classes", "kept")
SAME = ("threat", "method", "count", "shard", "certificate")
"""What has to be the same of the images, whose path may differ, and of a pairing beside its key."""


def refuse_unlike(one: Run, two: Run) -> None:
    """Rows and columns that only one of two runs has may join; what both have must be the same in both.

    Raises:
        UserError: they are not of one suite. Says what differs.
    """
    first, second = one.manifest, two.manifest
    found = list(_differences(first, second)) or list(_of_keys(first, second))
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"{one.path} and {two.path} do not belong together: {'; '.join(found[:SHOWN])}{more}",
            remedy="Merge runs of the same suite, with the same code, weights and images",
        )


def _differences(one: Manifest, two: Manifest) -> Iterator[str]:
    if one.suite != two.suite:
        yield f"the suite is '{one.suite}' in the one, and '{two.suite}' in the other"
        return
    for name in IMAGES:
        before, now = getattr(one.dataset, name), getattr(two.dataset, name)
        if before != now:
            yield "the indices of the images" if name == "indices" else f"dataset.{name}: {before} -> {now}"
    for name in CLAIMED:
        before, now = getattr(one.protocol, name), getattr(two.protocol, name)
        if before != now:
            yield f"protocol.{name}: {before} -> {now}"
    yield from _of_arguments(one, two)
    for kind, title in (("defenses", "defense"), ("cells", "attack of")):
        old, new = getattr(one.contents, kind), getattr(two.contents, kind)
        for name in (name for name in new if name in old and old[name] != new[name]):
            yield from culprits(f"{title} '{name}'", old[name], new[name])


def _of_arguments(one: Manifest, two: Manifest) -> Iterator[str]:
    """Arguments that differ, unless a key that both have says that they come to the same, as another path may do."""
    keys = {cell.name: cell.key for cell in one.cells}
    alike = {cell.name for cell in two.cells if keys.get(cell.name) == cell.key}
    for kind, known in (("defenses", {name.partition("/")[0] for name in alike}), ("cells", alike)):
        old, new = getattr(one.resolved, kind), getattr(two.resolved, kind)
        for name in (name for name in new if name in old and name not in known):
            before, now = ({f"{kind}.{name}": part[name].model_dump()} for part in (old, new))
            yield from describe(before, now)


def _of_keys(one: Manifest, two: Manifest) -> Iterator[str]:
    """Pairings that are others, although nothing that a manifest says of their parts tells why."""
    cells = {cell.name: cell for cell in one.cells}
    for cell in two.cells:
        earlier = cells.get(cell.name, cell)
        if earlier.key != cell.key:
            yield f"the key of {cell.name}, because of code of the harness, {one.harness} and {two.harness}"
        elif different := [name for name in SAME if getattr(earlier, name) != getattr(cell, name)]:
            yield f"the {different[0]} of {cell.name}"
