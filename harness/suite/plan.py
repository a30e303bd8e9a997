"""Suites: a YAML file that lists defenses, attacks and their pairings, checked in full before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.certification.smoothed import SmoothedDefense
from harness.config.component import BUDGET, Component, bind, check_budget, class_of
from harness.config.signature import parameters
from harness.config.validation import parse
from harness.config.yaml_file import Document, Key, Node, read
from harness.errors import Place, UserError, nearest
from harness.suite.dataset_section import check_dataset, from_here
from harness.suite.limits import MOST_CELLS, MOST_PLACES
from harness.suite.names import Only, chosen
from harness.suite.overrides import overridden
from harness.suite.schema import Suite
from harness.suite.sweep import Sweep, entry_of, expand

__all__ = ["Cell", "Component", "Plan", "check", "load_suite", "written_out"]


@dataclass(frozen=True)
class Cell:
    """A pairing of a defense and an attack: one number in the table."""

    defense: Component
    attack: Component


@dataclass(frozen=True)
class Plan:
    """A validated suite.

    Args:
        suite: the content of the file, with defaults filled in and sweeps expanded.
        document: the file with sweeps expanded; it knows the line of each value.
        cells: the pairings to run, defense by defense.
        all_cells: all pairings of the suite, including those that `only` leaves out.
        sweeps: the swept components, with the names of their variants.
        settings: the values that were set from outside the file, see `harness.suite.overrides`.
    """

    suite: Suite
    document: Document
    cells: tuple[Cell, ...]
    all_cells: tuple[Cell, ...]
    sweeps: tuple[Sweep, ...] = ()
    settings: tuple[str, ...] = ()

    def place(self, *path: Key) -> Place:
        """The line of the value at `path`, such as "defenses", "rdc"; that of the nearest ancestor if there is none."""
        return self.document.place(*path)

    def dataset_base(self) -> Path:
        """The folder that a dataset's name such as `./mine.py:MyData` is relative to."""
        return self.place("dataset", "name").file.parent

    def resolved(self) -> dict[str, Any]:
        """Everything that affects results, for JSON. It does not depend on `only`, batch size or device."""
        dataset = self.suite.dataset.model_dump(mode="json", exclude_none=True)
        for key in ("path", "classes"):
            if isinstance(path := getattr(self.suite.dataset, key), Path):
                dataset[key] = Path(os.path.relpath(path, self.document.path.parent)).as_posix()
        return {
            "suite": self.suite.suite,
            "dataset": dataset,
            "protocol": self.suite.protocol.model_dump(mode="json", exclude={"batch_size"}),
            "defenses": {cell.defense.name: _resolved(cell.defense) for cell in self.all_cells},
            "cells": {f"{cell.defense.name}/{cell.attack.name}": _resolved(cell.attack) for cell in self.all_cells},
        }

    def presentation(self) -> dict[str, Any]:
        """Everything that only affects how results are shown, for JSON."""
        return {
            "title": self.suite.title,
            "report": self.suite.report.model_dump(mode="json"),
            "labels": {
                kind: {name: entry.label or name for name, entry in entries.items()}
                for kind, entries in (("defenses", self.suite.defenses), ("attacks", self.suite.attacks))
            },
            "sweeps": [asdict(sweep) for sweep in self.sweeps],
        }


def load_suite(path: str | Path, *, limit: int | None = None, only: Only = None, settings: Sequence[str] = ()) -> Plan:
    """Reads a suite and checks all of it. Builds attacks, to check their budgets, but neither defenses nor datasets.

    Args:
        path: the YAML file.
        limit: use only the first `limit` images of those that the suite selects.
        only: "DEFENSE" or "DEFENSE/ATTACK", or several of them: run only these pairings. A swept component's name
            selects all its variants.
        settings: values that replace those of the file, such as "defenses.rdc.eta=4/255".

    Raises:
        UserError: the suite is not valid; the error names the line.

    Example:
        >>> plan = load_suite("suites/quickstart.yaml", only="undefended")
        >>> [(cell.defense.name, cell.attack.name) for cell in plan.cells]
        [('undefended', 'linf'), ('undefended', 'l2')]
    """
    document = overridden(_read(Path(path).expanduser()), settings)
    return replace(check(document, limit=limit, only=only), settings=tuple(settings))


def _read(path: Path) -> Document:
    """Parses a suite. Raises UserError for a recipe, which another command takes."""
    document = read(path)
    if document.root.child("recipe") and not document.root.child("suite"):
        raise UserError(f"{path} is a recipe, and no suite", remedy=f"Train by it: harness train {path}")
    return document


def check(document: Document, *, limit: int | None = None, only: Only = None) -> Plan:
    """Checks a suite that has been read already; see `load_suite`."""
    document, sweeps = written_out(document)
    root = document.root
    suite = _spelt_out(document, parse(Suite, root, "the file"), limit, sweeps)
    check_dataset(document, suite.dataset)
    _check_report(document, suite)
    cells = _cells(root, suite)
    for attack in {id(cell.attack): cell.attack for cell in cells}.values():
        check_budget(attack)
    return Plan(suite, document, _selected(cells, suite, sweeps, only, Place(document.path)), cells, sweeps)


def written_out(document: Document) -> tuple[Document, tuple[Sweep, ...]]:
    """The suite without keys that the harness ignores, and with every variant of its sweeps as an entry.

    Raises:
        UserError: a section is not valid, or a sweep names something that does not exist.
    """
    root = _sections(document.root)
    if not parse(Suite, root, "the file").sweep:
        return replace(document, root=root), ()
    root, sweeps = expand(root)
    return replace(document, root=root), sweeps


def _sections(root: Node) -> Node:
    """The file without empty sections and the keys x-..., which authors may use freely. `dc:` alone is an entry too.

    Empty keys that are not sections stay, so that they are reported as errors.
    """
    own = {key: node for key, node in root.value.items() if not key.startswith("x-")}
    kept = {key: node for key, node in own.items() if node.value is not None or key not in Suite.model_fields}
    for kind in ("defenses", "attacks", "certificates"):
        if kind in kept and isinstance(kept[kind].value, dict):
            kept[kind] = replace(kept[kind], value={name: _filled(node) for name, node in kept[kind].value.items()})
    return replace(root, value=kept)


def _filled(node: Node) -> Node:
    return replace(node, value={}) if node.value is None else node


def _spelt_out(document: Document, suite: Suite, limit: int | None, sweeps: tuple[Sweep, ...]) -> Suite:
    """Fills in defaults that depend on other values, and makes paths relative to the current folder."""
    dataset: dict[str, Any] = {}
    if limit is not None:
        if limit < 1:
            raise UserError(f"the limit is {limit} images", remedy="Use at least 1", where=Place(document.path))
        dataset["limit"] = min(limit, suite.dataset.limit or limit)
    if suite.dataset.size is not None:
        dataset["seed"] = suite.dataset.seed or 0
    swept = {name for sweep in sweeps if sweep.kind == "attacks" for name in sweep.variants}
    unswept = tuple(name for name in suite.attacks if name not in swept)
    average = unswept if suite.report.average is None else suite.report.average
    worst = average if suite.report.worst is None else suite.report.worst
    report = suite.report.model_copy(update={"average": average, "worst": worst})
    section = from_here(document, suite.dataset).model_copy(update=dataset)
    return suite.model_copy(update={"dataset": section, "report": report})


def _check_report(document: Document, suite: Suite) -> None:
    for column in ("average", "worst", "naive"):
        for index, name in enumerate(getattr(suite.report, column)):
            _known(name, suite.attacks, "attack", document.place("report", column, index))
    for name in suite.report.competitiveness or {}:
        if name != "clean":  # clean images, which are among what the ratios cover
            _known(name, suite.attacks, "attack", document.place("report", "competitiveness", name))
    grouped: dict[str, str] = {}
    for group, names in suite.report.groups.items():
        for index, name in enumerate(names):
            where = document.place("report", "groups", group, index)
            _known(name, suite.defenses, "defense", where)
            if grouped.setdefault(name, group) != group:
                raise UserError(f"'{name}' is in the groups '{grouped[name]}' and '{group}'", where=where)


def _known(name: str, names: Any, what: str, where: Place) -> None:
    if name not in names:
        raise UserError(f"the suite has no {what} '{name}'", remedy=nearest(name, names), where=where)


def _cells(root: Node, suite: Suite) -> tuple[Cell, ...]:
    defenses = {name: bind("defenses", name, entry_of(root, "defenses", name)) for name in suite.defenses}
    attacks = {name: bind("attacks", name, entry_of(root, "attacks", name)) for name in suite.attacks}
    pairs, certified = _pairs(root, suite), _certificates(root, suite, defenses)
    if len(pairs) + len(certified) > MOST_CELLS or len(defenses) * len(attacks) > MOST_PLACES:
        raise UserError(
            f"the suite has {len(pairs) + len(certified):,} pairings of {len(defenses):,} defenses and "
            f"{len(attacks):,} attacks, and {MOST_CELLS:,} pairings and {MOST_PLACES:,} places of a table are allowed",
            remedy="Split it into several",
            where=root.where,
        )
    order = [(defense, attack) for defense in defenses for attack in attacks if (defense, attack) in pairs]
    cells = [*(Cell(defenses[d], _changed(attacks[a], pairs[d, a])) for d, a in order), *certified]
    places = {name: place for place, name in enumerate(defenses)}
    return tuple(sorted(cells, key=lambda cell: places[cell.defense.name]))


def _certificates(root: Node, suite: Suite, defenses: Mapping[str, Component]) -> list[Cell]:
    """A cell for every certificate and smoothed defense.

    Raises:
        UserError: a certificate has the name of an attack, or there is no smoothed defense.
    """
    if not suite.certificates:
        return []
    found = {name: bind("certificates", name, entry_of(root, "certificates", name)) for name in suite.certificates}
    for name, certificate in found.items():
        if name in suite.attacks:
            raise UserError(
                f"'{name}' is a certificate and an attack", remedy="Rename one of them", where=certificate.place
            )
    smoothed = [defense for defense in defenses.values() if issubclass(defense.cls, SmoothedDefense)]
    if not smoothed:
        raise UserError(
            "the suite has certificates, and no smoothed defense that they could be of",
            remedy="Add one, such as {type: smoothed, sigma: 0.25, classifier: ...}",
            where=root.value["certificates"].key,
        )
    return [Cell(defense, certificate) for defense in smoothed for certificate in found.values()]


def _changed(attack: Component, overrides: Node | None) -> Component:
    """The attack of one pairing. If the pairing sets another `type`, only the budget and the label are kept."""
    if overrides is None:
        return attack
    if "type" not in overrides.value:
        return bind("attacks", attack.name, attack.node.merged(overrides))
    accepted = parameters(class_of("attacks", attack.name, overrides))
    kept = [key for key in attack.node.value if key == "label" or (key in BUDGET and key in accepted)]
    entry = {key: attack.node.value[key] for key in kept} | overrides.value
    return bind("attacks", attack.name, replace(overrides, value=entry))


def _pairs(root: Node, suite: Suite) -> dict[tuple[str, str], Node | None]:
    """The pairings, and the changes that each makes to its attack."""
    if suite.pairings is None:
        return {(d, a): None for d in suite.defenses for a in suite.attacks}
    pairs: dict[tuple[str, str], Node | None] = {}
    for index in range(len(suite.pairings)):
        node = root.follow("pairings", index)[0]
        overrides = node.child("with")
        for defense in _names(node.value["defense"], suite.defenses, "defense"):
            for attack in _names(node.value["attack"], suite.attacks, "attack"):
                if (defense, attack) in pairs:
                    raise UserError(f"the pairing {defense}/{attack} appears twice", where=node.where)
                pairs[defense, attack] = overrides if overrides and overrides.value else None
    return pairs


def _names(node: Node, known: Any, what: str) -> list[str]:
    """The names in a node with one name or a list of names."""
    names = node.value if isinstance(node.value, list) else [node]
    for name in names:
        _known(name.value, known, what, name.where)
    return [name.value for name in names]


def _selected(
    cells: tuple[Cell, ...], suite: Suite, sweeps: tuple[Sweep, ...], only: Only, where: Place
) -> tuple[Cell, ...]:
    if only is None:
        return cells
    if not only:
        raise UserError("no pairing is chosen", remedy="Name one, or leave out `only` for all", where=where)
    named = {id(cell) for name in chosen(only) for cell in _named(cells, suite, sweeps, name, where)}
    return tuple(cell for cell in cells if id(cell) in named)


def _named(
    cells: tuple[Cell, ...], suite: Suite, sweeps: tuple[Sweep, ...], name: str, where: Place
) -> tuple[Cell, ...]:
    """The pairings of "DEFENSE" or "DEFENSE/ATTACK", of which there is at least one."""
    defense, _, attack = name.partition("/")
    variants = {(sweep.kind, sweep.name): set(sweep.variants) for sweep in sweeps}
    defenses, attacks = (variants.get(key, {key[1]}) for key in (("defenses", defense), ("attacks", attack)))
    if ("defenses", defense) not in variants:
        _known(defense, suite.defenses, "defense", where)
    if attack and ("attacks", attack) not in variants:
        _known(attack, {**suite.attacks, **suite.certificates}, "attack", where)
    selected = tuple(c for c in cells if c.defense.name in defenses and (not attack or c.attack.name in attacks))
    if not selected:
        raise UserError(f"the suite has no pairing {name}", remedy="Add it under `pairings:`", where=where)
    return selected


def _resolved(component: Component) -> dict[str, Any]:
    return {"type": component.type, "arguments": component.resolved()}
