"""Sweeps: a component with several values for an argument is replaced by one component per value.

    sweep: {defense.rdc.eta: [0, 2/255], attack.linf.steps: [10, 20, 40]}

replaces `rdc` by `rdc.eta-0` and `rdc.eta-2_255`, before anything else is done with the suite. If several arguments of
one component are swept, there is a variant for each combination; the last argument varies fastest. A swept value
overrides the entry, the defaults and a pairing's `with:`. The name of the component refers to all of its variants.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.config.component import RESERVED, class_of
from harness.config.signature import parameters
from harness.config.yaml_file import Key, Node
from harness.errors import UserError, nearest
from harness.suite.limits import MOST_VARIANTS
from harness.suite.names import short_hash, shortened, spelt

KINDS = {"defense": "defenses", "attack": "attacks"}
FORM = "Write defense.NAME.ARGUMENT or attack.NAME.ARGUMENT"


@dataclass(frozen=True)
class Sweep:
    """A component and its variants.

    Args:
        kind: "defenses" or "attacks".
        name, label: those of the component in the suite.
        paths: the swept arguments, such as "eta" or "classifier.weights".
        variants: for each variant, by name, the values of `paths`.
    """

    kind: str
    name: str
    label: str
    paths: tuple[str, ...]
    variants: dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class _Axis:
    """A swept argument (the keys that lead to it within the entry) and its values."""

    keys: tuple[str, ...]
    values: list[Node]

    @property
    def path(self) -> str:
        return ".".join(self.keys)


SweepPoint = list[tuple[_Axis, Node]]
"""One value of each axis."""


@dataclass(frozen=True)
class _Family:
    sweep: Sweep
    settings: dict[str, SweepPoint]
    entries: dict[str, Node]


def expand(root: Node) -> tuple[Node, tuple[Sweep, ...]]:
    """Replaces the swept components of a suite by their variants.

    Args:
        root: the content of a file that is valid according to `harness.suite.schema.Suite`.

    Raises:
        UserError: a path does not exist, a value appears twice, or a name is taken; the error names the line.
    """
    axes: dict[tuple[str, str], list[_Axis]] = {}
    for path, values in root.value["sweep"].value.items():
        kind, name, axis = _axis(root, path, values)
        axes.setdefault((kind, name), []).append(axis)
    families = [_family(root, *component, own) for component, own in axes.items()]
    for family in families:
        root = _in_place(root, family)
    for section, changed in (("pairings", _pairings), ("report", _report)):
        if node := root.child(section):
            root = replace(root, value={**root.value, section: changed(node, families)})
    return root, tuple(family.sweep for family in families)


def _axis(root: Node, path: str, values: Node) -> tuple[str, str, _Axis]:
    """The kind and name of the component that a path refers to, and the argument that it varies."""
    first, _, rest = path.partition(".")
    kind = KINDS.get(first)
    if kind is None:
        raise UserError(f"the sweep path '{path}' names neither a defense nor an attack", remedy=FORM, where=values.key)
    known = root.value[kind].value
    matching = [name for name in known if f"{rest}.".startswith(f"{name}.")]
    if not matching:
        wanted = rest.partition(".")[0]
        raise UserError(
            f"the suite has no {first} '{wanted}' to sweep", remedy=nearest(wanted, known), where=values.key
        )
    name = max(matching, key=len)
    axis = _Axis(tuple(rest[len(name) + 1 :].split(".")), values.value)
    _check(root, kind, name, axis, values)
    return kind, name, axis


def _check(root: Node, kind: str, name: str, axis: _Axis, values: Node) -> None:
    entry, title = entry_of(root, kind, name), f"{kind[:-1]} '{name}'"
    accepted = parameters(class_of(kind, name, entry))
    if not axis.path:
        raise UserError(f"the sweep of {title} names no argument", remedy=FORM, where=values.key)
    if axis.keys[0] not in accepted or axis.keys[0] in RESERVED:
        remedy = nearest(axis.keys[0], accepted)
        raise UserError(f"{title} has no argument '{axis.keys[0]}'", remedy=remedy, where=values.key)
    node: Node | None = entry
    for depth, key in enumerate(axis.keys[:-1], 1):
        node = node.child(_key(node, key)) if node else None
        if node is None or not isinstance(node.value, dict | list):
            inner = ".".join(axis.keys[:depth])
            raise UserError(f"{title} has no entry below '{inner}' to sweep", remedy=FORM, where=values.key)
    seen: set[str] = set()
    for value in axis.values:
        text = json.dumps(value.plain())
        if text in seen:
            raise UserError(f"the sweep has the value {text} twice", remedy="Remove one of them", where=value.where)
        seen.add(text)


def entry_of(root: Node, kind: str, name: str) -> Node:
    """The entry of a component, merged with the defaults of its kind."""
    own, _ = root.follow(kind, name)
    defaults, depth = root.follow("defaults", kind)
    return defaults.merged(own) if depth == 2 and defaults.value else own


def _family(root: Node, kind: str, name: str, axes: Sequence[_Axis]) -> _Family:
    own, whole = root.value[kind].value[name], entry_of(root, kind, name)
    written = whole.child("label")
    label = written.value if written and isinstance(written.value, str) else name
    settings: dict[str, SweepPoint] = {}
    entries = {}
    if (count := math.prod(len(axis.values) for axis in axes)) > MOST_VARIANTS:
        raise UserError(
            f"the sweep of {kind[:-1]} '{name}' has {count:,} variants, and {MOST_VARIANTS:,} are allowed",
            remedy="Sweep fewer values, or fewer arguments together",
            where=own.where,
        )
    for values in itertools.product(*(axis.values for axis in axes)):
        setting = list(zip(axes, values, strict=True))
        variant = _name(name, setting, settings)
        settings_text = ", ".join(f"{axis.path} = {spelt(value.plain())}" for axis, value in setting)
        facts = {"label": replace(own, value=f"{label}, {settings_text}")}
        if "type" not in whole.value:
            facts["type"] = replace(own, value=name)
        settings[variant] = setting
        entries[variant] = _set(replace(own, value={**own.value, **facts}), whole, setting)
    plain = {variant: tuple(value.plain() for _, value in setting) for variant, setting in settings.items()}
    return _Family(Sweep(kind, name, label, tuple(axis.path for axis in axes), plain), settings, entries)


def _name(name: str, setting: SweepPoint, taken: Mapping[str, Any]) -> str:
    """The name of a variant, which is also used as the name of a folder."""
    values = [(axis.path, spelt(value.plain())) for axis, value in setting]
    parts = [re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{path}-{text}").strip("_") for path, text in values]
    plain = ".".join([name, *parts])
    return shortened(plain) if plain not in taken else shortened(f"{plain}-{short_hash(json.dumps(values))}")


def _set(entry: Node, whole: Node, setting: SweepPoint) -> Node:
    """Sets values in an entry. whole: the merged entry, which may have the outer values of an inner argument."""
    entries = dict(entry.value)
    for axis, value in setting:
        first, *rest = axis.keys
        around = entries.get(first) or whole.child(first)
        entries[first] = _put(around, rest, value)
    return replace(entry, value=entries)


def _put(node: Node | None, keys: Sequence[str], value: Node) -> Node:
    if node is None or not keys:
        return value
    key = _key(node, keys[0])
    below = _put(node.child(key), keys[1:], value)
    if isinstance(node.value, list):
        return replace(node, value=[below if at == key else item for at, item in enumerate(node.value)])
    return replace(node, value={**node.value, key: below})


def _key(node: Node, key: str) -> Key:
    return int(key) if isinstance(node.value, list) and key.isdecimal() else key


def _in_place(root: Node, family: _Family) -> Node:
    section = root.value[family.sweep.kind]
    entries: dict[str, Node] = {}
    for name, node in section.value.items():
        entries |= family.entries if name == family.sweep.name else {name: node}
    if len(entries) < len(section.value) - 1 + len(family.entries):
        name = next(name for name in family.entries if name in section.value)
        where = section.value[name].key
        raise UserError(f"the sweep also creates the name '{name}'", remedy="Rename this entry", where=where)
    return replace(root, value={**root.value, family.sweep.kind: replace(section, value=entries)})


def _pairings(pairings: Node, families: Sequence[_Family]) -> Node:
    return replace(pairings, value=[new for item in pairings.value for new in _split(item, families)])


def _split(pairing: Node, families: Sequence[_Family]) -> Iterator[Node]:
    """Splits a pairing into one per variant, where overrides differ between variants."""
    entry = {**pairing.value, "defense": _variants(pairing.value["defense"], families, "defenses")}
    overrides = entry.get("with")
    if overrides is None or not overrides.value:
        yield replace(pairing, value={**entry, "attack": _variants(entry["attack"], families, "attacks")})
        return
    swept = {family.sweep.name: family for family in families if family.sweep.kind == "attacks"}
    for name in _listed(entry["attack"]):
        family = swept.get(name.value)
        if family is None:
            yield replace(pairing, value={**entry, "attack": name})
            continue
        for variant, setting in family.settings.items():
            changed = {"attack": replace(name, value=variant), "with": _overriding(overrides, family, variant, setting)}
            yield replace(pairing, value={**entry, **changed})


def _overriding(overrides: Node, family: _Family, variant: str, setting: SweepPoint) -> Node:
    """The overrides with the swept values. Outer values of a swept argument are merged from variant and overrides."""
    around = family.entries[variant]
    inner = {axis.keys[0] for axis, _ in setting if len(axis.keys) > 1} & overrides.value.keys()
    merged = {key: around.value[key].merged(overrides.value[key]) for key in inner}
    return _set(replace(overrides, value={**overrides.value, **merged}), around, setting)


def _report(report: Node, families: Sequence[_Family]) -> Node:
    """Replaces swept names in the report. The worst case covers all variants; an average over them is an error."""
    entries = dict(report.value)
    swept = {family.sweep.name: family for family in families if family.sweep.kind == "attacks"}
    for name in _listed(entries["average"]) if entries.get("average") else ():
        if name.value in swept:
            raise UserError(
                f"the average contains the swept attack '{name.value}', and would depend on the choice of its values",
                remedy=f"Remove it, or name one variant, such as '{next(iter(swept[name.value].entries))}'",
                where=name.where,
            )
    if entries.get("worst"):
        entries["worst"] = _variants(entries["worst"], families, "attacks")
    if entries.get("groups") and isinstance(entries["groups"].value, dict):
        groups = {name: _variants(node, families, "defenses") for name, node in entries["groups"].value.items()}
        entries["groups"] = replace(entries["groups"], value=groups)
    return replace(report, value=entries)


def _variants(node: Node, families: Sequence[_Family], kind: str) -> Node:
    """Replaces swept names by the names of their variants."""
    known = {family.sweep.name: family.entries for family in families if family.sweep.kind == kind}
    names = [replace(name, value=new) for name in _listed(node) for new in known.get(name.value, [name.value])]
    return replace(node, value=names)


def _listed(node: Node) -> list[Node]:
    """The items of a node with one name or a list of names."""
    names = node.value if isinstance(node.value, list) else [node]
    return list(names or [])
