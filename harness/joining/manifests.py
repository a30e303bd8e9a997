"""One manifest of several, which agree with each other (see `harness.joining.agreement`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.errors import UserError
from harness.evaluation.write_manifest import all_remarks
from harness.results.load import Run

NAMED = ("attacks", "certificates")
"""Sections by name of which the first directory's entry counts."""


def joined(runs: Sequence[Run]) -> dict[str, Any]:
    """The content of the manifest of all runs together, before any hash of a shard.

    Titles, labels and report settings are those of the first run. Remarks of gates and sessions are those of all.

    Raises:
        UserError: two runs say of the same defense that it is random, and that it is not.
    """
    documents = [run.manifest.document() for run in runs]
    content = dict(documents[0])
    content["defenses"] = _defenses(runs)
    for name in NAMED:
        if entries := _first(document.get(name, {}) for document in documents):
            content[name] = entries
    for name in ("resolved", "contents"):
        parts = [document.get(name, {}) for document in documents]
        both = {kind: _first(part.get(kind, {}) for part in parts) for kind in ("defenses", "cells")}
        content[name] = {**parts[0], **both}
    for name in ("sessions", "sweeps", "settings"):
        if any(name in document for document in documents):
            content[name] = _each_once(document.get(name, []) for document in documents)
    content["cells"] = _cells(documents)
    return content


def _first(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All entries, of those of one name the first."""
    found: dict[str, Any] = {}
    for part in parts:
        found = {**found, **{name: entry for name, entry in part.items() if name not in found}}
    return found


def _each_once(lists: Iterable[list[Any]]) -> list[Any]:
    found: list[Any] = []
    for entry in (entry for entries in lists for entry in entries):
        if entry not in found:
            found.append(entry)
    return found


def _cells(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairings of all, in the order of the suite."""
    known: dict[str, dict[str, Any]] = {}
    for cell in (cell for document in documents for cell in document["cells"]):
        name = f"{cell['defense']}/{cell['attack']}"
        known[name] = _both(known[name], cell) if name in known else cell
    named = [name for document in documents for name in document["resolved"]["cells"]]
    place = {name: at for at, name in enumerate(dict.fromkeys([*named, *known]))}
    return [known[name] for name in sorted(known, key=place.__getitem__)]


def _both(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """What two runs say of one pairing: all remarks, the first measurement, the largest memory."""
    merged = {**two, **one, "flags": all_remarks(one.get("flags", []), two.get("flags", []))}
    noise = [cell["gradient_noise"] for cell in (one, two) if "gradient_noise" in cell]
    if noise:
        merged["gradient_noise"] = next((found for found in noise if found), None)
    if memory := [cell["gpu_memory"] for cell in (one, two) if cell.get("gpu_memory")]:
        merged["gpu_memory"] = max(memory)
    return merged


def _defenses(runs: Sequence[Run]) -> dict[str, Any]:
    """Facts on defenses: of a run that has an image of each without an error, or else of the first that names it."""
    found: dict[str, Any] = {}
    seen: dict[str, Run] = {}
    for run in runs:
        facts = run.manifest.document()["defenses"]
        worked = {name for (name, _), cell in run.cells.items() if not cell.columns.failed.all()}
        for name in facts:
            if name not in found or (name in worked and name not in seen):
                found[name] = facts[name]
            if name in worked:
                _refuse_other_randomness(seen.setdefault(name, run), run, name)
    return found


def _refuse_other_randomness(one: Run, two: Run, name: str) -> None:
    """A deterministic defense has one vote for each image, and another one several."""
    if one.manifest.defenses[name].stochastic != two.manifest.defenses[name].stochastic:
        raise UserError(
            f"{one.path} and {two.path} contradict each other: defense '{name}' is random in one of them",
            remedy="Find out which of them is right with `harness verify`, and leave the other out",
        )
