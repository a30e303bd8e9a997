"""What a manifest claims: which images, made where, and which pairings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from harness import datasets
from harness.datasets.batch import Images
from harness.datasets.spec import Dataset as Section
from harness.errors import UserError, nearest
from harness.results.clean_images import load_clean, section_of
from harness.results.environment import PACKAGES, device_name, installed_version
from harness.results.facts import CellFacts, SessionFacts
from harness.results.manifest import Manifest
from harness.suite.names import Only, chosen


class Mismatch(Exception):
    """Something on this machine is not what the manifest describes; the message says what."""


@dataclass(frozen=True)
class Attacked:
    """The images of a run before any attack, the dataset that they are from, and how many classes there are."""

    images: Images
    dataset: datasets.Dataset
    num_classes: int


def attacked(manifest: Manifest, root: Path, folder: Path) -> Attacked:
    """The clean images, from the dataset on this machine.

    Args:
        root: the results directory.
        folder: where the suite's relative paths start.

    Raises:
        UserError: the dataset is missing.
        Mismatch: it is another dataset, or the images are not those that the suite chose.
    """
    facts = manifest.dataset
    try:
        section = section_of(manifest)
    except UserError as error:
        raise Mismatch(error.message) from error
    dataset = load_clean(manifest, root, folder, folder)
    fingerprint = datasets.fingerprint(dataset.images, dataset.labels)
    if fingerprint != facts.fingerprint:
        raise Mismatch(
            f"the images of '{facts.name}' are not those of the results: "
            f"their fingerprint is {fingerprint[:8]}, and {facts.fingerprint[:8]} in the manifest"
        )
    if _chosen(section, dataset.whole.size) != list(facts.indices):
        raise Mismatch(f"the {facts.count} images are not those that the suite chose from '{facts.name}'")
    classes = dataset.num_classes or facts.num_classes or dataset.whole.largest + 1
    return Attacked(Images(torch.tensor(facts.indices), dataset.images, dataset.labels), dataset, classes)


def _chosen(section: Section, available: int) -> list[int]:
    """The images that a suite's `dataset` section chooses of so many."""
    try:
        return section.choose(available)
    except UserError as error:
        raise Mismatch(error.message) from error


def changed_environment(manifest: Manifest, device: torch.device) -> tuple[str, ...]:
    """Versions and hardware of the sessions that made the results, where they differ from those of now."""
    current = {"device": device_name(device)} | {name: installed_version(name) for name in PACKAGES}
    changes = []
    for name, now in current.items():
        then = {_fact(session, name) for session in manifest.sessions} - {now}
        if then:
            changes.append(f"{name}: {', '.join(sorted(map(str, then)))} when the results were made, {now} now")
    return tuple(changes)


def _fact(session: SessionFacts, name: str) -> str | None:
    return session.device if name == "device" else session.packages.get(name)


def chosen_cells(manifest: Manifest, only: Only) -> list[CellFacts]:
    """The pairings that are named, all of a defense's together.

    Raises:
        UserError: a name is none of theirs.
    """
    order = list(dict.fromkeys(cell.defense for cell in manifest.cells))
    cells = sorted(manifest.cells, key=lambda cell: order.index(cell.defense))
    if only is None:
        return cells
    names, known = chosen(only), [*order, *(cell.name for cell in cells)]
    if not names:
        raise UserError("no pairing is chosen", remedy="Name one, or leave out `only` for all")
    for name in names:
        if name not in known:
            raise UserError(f"these results have no pairing {name}", remedy=nearest(name, known))
    return [cell for cell in cells if cell.defense in names or cell.name in names]


def absent_pairings(manifest: Manifest) -> list[str]:
    """The pairings that the suite has and the results do not."""
    known = {cell.name for cell in manifest.cells}
    return [name for name in manifest.resolved.cells if name not in known]
