"""What a number claims, as a hash: same key, same claim.

A cell's key covers the implementation and arguments of defense and attack, the contents of checkpoints, the images and
the protocol. It leaves out names, paths, batch size and hardware.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from harness.config import registry
from harness.config.component import Component
from harness.config.given import Given
from harness.config.importable import Importable
from harness.config.imports import sources_of_file, sources_of_module
from harness.config.live_code import package_version, sources_of_object
from harness.config.neighbours import OURS
from harness.errors import Failed, UserError
from harness.files import content
from harness.suite.built_state import digest_of, state
from harness.weights.card import Card
from harness.weights.checkpoint import Checkpoint, packaged

CLAIMED = ("votes", "seed", "shard")
"""What of the protocol decides results."""

SHOWN = 5
"""So many attributes are named in an error."""


@dataclass(frozen=True)
class Identity:
    """What a defense or an attack is.

    Args:
        key: the hash of all of it.
        contents: what its arguments do not say, see `Identities`.
    """

    key: str
    contents: dict[str, Any]


class Identities:
    """The identities of defenses and attacks, worked out once each.

    Built-in code is told by its class and `version`, and a checkpoint by its sha256; what follows from these needs no
    further look. Code of the user's is built, since only then is it known what it reads and computes, and counts by

        code     the user's file, what it imports of the user's, and data files whose names stand in the source
        files    files and folders that are named by arguments
        state    all that the built object holds, by attribute; where it cannot be built, there is a `failure` instead

    An object that was given in Python counts by the code of the user that it consists of, and by its state.

    It is built with the global generators seeded (see `Component.build`), so that an object with random numbers in it
    is the same each time.
    """

    def __init__(self) -> None:
        self._known: dict[str, Identity] = {}

    def of(self, component: Component) -> Identity:
        """The identity of a component.

        Raises:
            UserError: it is the user's code, and refuses its arguments.
        """
        instance = id(component.instance) if isinstance(component, Given) else None
        asked = json.dumps([str(component.cls), str(component.base), component.resolved(), instance])
        if asked not in self._known:
            self._known[asked] = self._found(component)
        return self._known[asked]

    def key(self, component: Component) -> str:
        """The hash alone."""
        return self.of(component).key

    def _found(self, component: Component) -> Identity:
        counted = {name: value for name, value in component.arguments.items() if name not in _knobs(component)}
        resolved = component.resolved()
        arguments = {name: self._claim(value, resolved[name]) for name, value in counted.items()}
        claims: dict[str, Any] = {"code": _code(component), "arguments": arguments}
        contents: dict[str, Any] = {"version": getattr(component.cls, "version", 1)}
        code = _own_code(component)
        if code or isinstance(component, Given):
            own = {"code": code, "files": _files(counted, component)}
            try:
                own["state"] = built_state(component)
            except Failed as error:
                contents["failure"] = error.message
            contents, claims = contents | own, claims | {"contents": own}
        if cards := _cards(component):
            contents["cards"] = cards
        inner = {name: [self.of(part).contents for part in _parts(value)] for name, value in counted.items()}
        for name, parts in inner.items():
            contents |= {f"{name}[{place}]": part for place, part in enumerate(parts)}
        return Identity(_hash(claims), contents)

    def _claim(self, value: Any, resolved: Any) -> Any:
        """What an argument says; a defense or attack inside another says what it would alone."""
        if isinstance(value, Component):
            return self.key(value)
        if isinstance(value, Importable):  # where the user's file lies is not what it is
            return value.attribute if _is_file(value.written) else value.written
        if isinstance(value, list | tuple):
            return [self._claim(*pair) for pair in zip(value, resolved, strict=True)]
        return _contents(resolved)


def component_hash(component: Component) -> str:
    """The key of one component. Where there are several to ask for, `Identities` builds none of them twice."""
    return Identities().key(component)


def built_state(component: Component, instance: Any = None) -> dict[str, str]:
    """A hash of each attribute of the built object. instance: what was built of the component already."""
    return state(component.build() if instance is None else instance, skipped=_knobs(component))


def refuse_unsteady(component: Component, identity: Identity, instance: Any) -> None:
    """Raises UserError where an instance is not the one that the identity speaks of. Looks at the user's code only."""
    recorded = identity.contents.get("state", {})
    if not {"state", "failure"} & identity.contents.keys():
        return
    found = built_state(component, instance)
    if moved := [name for name in sorted(recorded | found) if recorded.get(name) != found.get(name)]:
        raise UserError(
            f"{component.title} is another each time it is built: {', '.join(moved[:SHOWN])}",
            remedy="Draw random numbers from the global generators or a seeded one, and keep no times or names of "
            "temporary files; an attribute that decides no number may stand in the class's `memory_knobs`",
            where=component.place,
        )


def cell_key(defense: str, attack: str, images: str, protocol: dict[str, Any]) -> str:
    """Identity of a pairing, from the hashes of its parts, the images' fingerprint and the protocol."""
    return _hash({"defense": defense, "attack": attack, "images": images, "protocol": protocol})


@dataclass(frozen=True)
class RunSetting:
    """What the pairings of a run have in common.

    Args:
        images: their fingerprint.
        protocol: what of it decides results.
    """

    images: str
    protocol: dict[str, Any]

    @classmethod
    def of(cls, images: str, protocol: Any) -> RunSetting:
        """protocol: has the attributes `CLAIMED`."""
        return cls(images, {name: getattr(protocol, name) for name in CLAIMED})

    def key(self, defense: str, attack: str) -> str:
        """Of a pairing, from the identities of its defense and its attack."""
        return cell_key(defense, attack, self.images, self.protocol)

    def given(self, attack: str, source: str) -> str:
        """Identity of an attack that is given the images of another pairing, from its own and that pairing's key."""
        return cell_key(attack, source, self.images, self.protocol)


def _knobs(component: Component) -> tuple[str, ...]:
    return getattr(component.cls, "memory_knobs", ())


def _code(component: Component) -> dict[str, Any]:
    cls = component.cls
    code: dict[str, Any] = {"class": cls.__qualname__, "version": getattr(cls, "version", 1)}
    if not _is_file(component.type):
        code["module"] = cls.__module__
    return code


def _own_code(component: Component) -> dict[str, str]:
    """The user's sources that a component consists of: of its class, and of what its arguments name."""
    if isinstance(component, Given):
        return sources_of_object(component.instance, digest_of)
    found = _sources(component.type, component.cls.__module__, component.base)
    for value in component.arguments.values():
        if isinstance(value, Importable):
            found |= _sources(value.written, value.module, value.base)
    for spec, base in _networks(component):
        try:
            cls = registry.find("networks", str(spec["type"]), base)
            found |= _sources(str(spec["type"]), cls.__module__, base)
        except registry.Foreign:
            raise
        except UserError:
            continue  # of what is no network after all, or cannot be built, which building it tells
    return found


def _sources(written: str, module: str, base: Path | None) -> dict[str, str]:
    """Of code that is not ours, its sources; of an installed package, its version. module: that the code is in."""
    package = module.partition(".")[0]
    if _is_file(written):
        return sources_of_file((base or Path()) / written.rpartition(":")[0])
    if package in OURS:
        return {}
    return sources_of_module(module) or {package: package_version(package)}


def _networks(component: Component) -> Iterator[tuple[Mapping[str, Any], Path | None]]:
    """Networks that arguments describe, or the cards of checkpoints, with the folders that files are relative to."""
    for value in component.arguments.values():
        if isinstance(value, Mapping) and isinstance(value.get("type"), str):
            yield value, component.place.file.parent
        elif isinstance(value, Checkpoint) and value.card and value.card.network:
            yield value.card.network, value.base


def _cards(component: Component) -> dict[str, str]:
    """The networks that cards of the user's say, by argument: they decide, and the checkpoint does not hold them."""
    found = {n: v for n, v in component.arguments.items() if isinstance(v, Checkpoint) and isinstance(v.card, Card)}
    return {n: _hash(v.card.network) for n, v in found.items() if v.card and v.ref not in packaged()}


def _files(arguments: Mapping[str, Any], component: Component) -> dict[str, str]:
    """The content of files and folders that arguments name, seen from the current folder and from the suite's."""
    found: dict[str, str] = {}
    for name, text in (pair for pair in _texts(arguments) if _is_path(pair[1])):
        places = dict.fromkeys(base / os.path.expanduser(text) for base in (Path(), component.base))
        contents = {known for place in places if (known := content(place))}
        if contents:
            found[name] = " ".join(sorted(contents))
    return found


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text and path in arguments, by its place."""
    if isinstance(value, str | PurePath):
        yield name, str(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _texts(item, f"{name}[{place}]")


def _is_path(text: str) -> bool:
    """Whether a text is written like a path: a bare word is none, though a file may be called so."""
    return "/" in text or os.sep in text or bool(Path(text).suffix)


def _parts(value: Any) -> list[Component]:
    """The defenses and attacks in an argument."""
    if isinstance(value, list | tuple):
        return [part for item in value for part in _parts(item)]
    return [value] if isinstance(value, Component) else []


def _is_file(written: str) -> bool:
    return written.partition(":")[0].endswith(".py")


def _contents(value: Any) -> Any:
    """Arguments with every checkpoint reduced to the hash of its bytes: where it lies is not what it is."""
    if isinstance(value, dict):
        if "sha256" in value:
            return f"{value['sha256']} {value['key']}" if "key" in value else value["sha256"]
        return {key: _contents(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_contents(item) for item in value]
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
