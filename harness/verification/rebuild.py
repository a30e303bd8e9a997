"""A cell's defense and attack, built again from the manifest, and proof that they are the ones that were recorded."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.attack import Attack
from harness.config import registry
from harness.config.component import BUDGET, Component, bind
from harness.config.given import PREFIX, is_given
from harness.config.signature import parameters
from harness.config.yaml_file import Node
from harness.errors import Place, UserError
from harness.evaluation.seeds import Seeds
from harness.results.changes import culprits
from harness.results.facts import CellFacts, Part
from harness.results.json_diff import differences
from harness.results.manifest import Manifest
from harness.results.store import MANIFEST
from harness.suite.cell_key import Identities, Identity, RunSetting
from harness.verification.inputs import Mismatch


class Unbuildable(UserError):
    """A defense or an attack was given as an object in Python, which nothing can build again."""


@dataclass(frozen=True)
class Rebuilt:
    """What a cell was made with."""

    defense: Component
    attack: Attack
    seeds: Seeds


def rebuild(claims: Manifest, facts: CellFacts, folder: Path, known: Identities) -> Rebuilt:
    """The defense, not yet built, the attack, and the seeds of a cell.

    Args:
        folder: where the suite's relative paths start.
        known: what was rebuilt so far, so that no defense of the user's is built for each of its cells.

    Raises:
        UserError: something that they need is missing.
        Mismatch: it is another one; says what differs.
    """
    parts, pair = claims.resolved, (facts.defense, facts.attack)
    setting = RunSetting.of(claims.dataset.fingerprint, claims.protocol)
    recorded = [_recorded(parts.defenses, facts.defense), _recorded(parts.cells, "/".join(pair))]
    defense = _component("defenses", facts.defense, recorded[0], folder)
    kind = "certificates" if facts.certificate else "attacks"
    method = _component(kind, facts.attack, recorded[1], folder)
    attack: Attack = method.build()
    identity = known.key(method)
    if attack.source:
        other, source = attack.source
        origin = (
            known.key(_component("defenses", other, _recorded(parts.defenses, other), folder)),
            known.key(_component("attacks", source, _recorded(parts.cells, f"{other}/{source}"), folder)),
        )
        identity = setting.given(identity, setting.key(*origin))
    seeds = Seeds(claims.protocol.seed, known.key(defense), identity)
    current = [known.of(defense), known.of(method)]
    changes = _changed(claims, facts, current)
    if changes or setting.key(seeds.defense, identity) != facts.key:
        difference = _difference(claims, [defense, method], recorded, changes)
        raise Mismatch(f"this is not what the results were made with: {difference}")
    return Rebuilt(defense, attack, seeds)


def _recorded(parts: dict[str, Part], name: str) -> Part:
    if name not in parts:
        raise UserError(f"the manifest no longer says what '{name}' was")
    return parts[name]


def _component(kind: str, name: str, part: Part, folder: Path) -> Component:
    if is_given(part.type):
        raise Unbuildable(
            f"{kind[:-1]} '{name}' was given as an object in Python ({part.type.removeprefix(PREFIX)}), and no file "
            "tells how to build it again: its images and budgets are checked, its answers are not"
        )
    return bind(kind, name, Node.of(_entry(kind, part.type, part.arguments, folder), Place(folder / MANIFEST)))


def _entry(kind: str, written: str, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An entry of a suite that resolves to these arguments.

    Defaults are left out again: 1 as the default of a float is hashed as 1, and as 1.0 where a suite writes it. A
    budget stays, since an attack inside another would take over that of the outer one.
    """
    defaults = _defaults(kind, written, folder)
    entry = {
        name: _unresolved(value, folder)
        for name, value in arguments.items()
        if name in BUDGET or name not in defaults or json.dumps(defaults[name]) != json.dumps(value)
    }
    return {"type": written, **entry}


def _unresolved(value: Any, folder: Path) -> Any:
    """As the suite wrote it: a checkpoint by its name, a defense or attack inside another as an entry."""
    if isinstance(value, list):
        return [_unresolved(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    if {"name", "sha256"} <= value.keys():
        return value["name"]
    if value.keys() == {"type", "arguments"}:
        return _entry(_kind(value["type"], folder), value["type"], value["arguments"], folder)
    return {name: _unresolved(item, folder) for name, item in value.items()}


def _defaults(kind: str, written: str, folder: Path) -> dict[str, Any]:
    cls, place = registry.find(kind, written, folder), Place(folder / MANIFEST)
    optional = {n: p.default for n, p in parameters(cls).items() if p.default is not inspect.Parameter.empty}
    return Component(kind, written, written, cls, optional, None, place, Node.of({}, place)).resolved()


def _kind(written: str, folder: Path) -> str:
    """Of a part inside another, which the manifest does not name."""
    try:
        registry.find("defenses", written, folder)
    except registry.Foreign:
        raise
    except UserError:
        return "attacks"
    return "defenses"


def _changed(claims: Manifest, facts: CellFacts, current: list[Identity]) -> list[str]:
    """What the manifest records beside arguments of the defense and the attack, and is another now."""
    titles = f"defense '{facts.defense}'", f"attack '{facts.attack}'"
    recorded = claims.contents.defenses.get(facts.defense), claims.contents.cells.get(facts.name)
    pairs = zip(titles, recorded, current, strict=True)
    return [change for title, then, now in pairs if then is not None for change in culprits(title, then, now.contents)]


def _difference(claims: Manifest, current: list[Component], recorded: list[Part], changes: list[str]) -> str:
    """Why the key is another: arguments and checkpoints that differ, or what the manifest does not write as such."""
    changed = [
        f"{component.title}: {path} was {then}, is {now}"
        for component, part in zip(current, recorded, strict=True)
        for path, then, now in differences(part.arguments, component.resolved())
    ]
    if changed:
        return "; ".join(changed)
    made = "" if claims.harness == __version__ else f", made by harness {claims.harness} where this is {__version__}"
    if changes:
        return f"{'; '.join(changes)}{made}, or the manifest was tampered with"
    code = " or ".join(f"{part.type} (now version {getattr(part.cls, 'version', 1)})" for part in current)
    return f"the code of {code} changed{made}, or the manifest was tampered with"
