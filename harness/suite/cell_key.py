"""The identity of a result as a hash: results with the same key are results of the same experiment.

A cell's key covers the implementation and arguments of defense and attack, the contents of checkpoints, the images and
the protocol. It does not cover names, paths, batch size and hardware.
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
"""The keys of the protocol that affect results."""

SHOWN = 5
"""The largest number of attributes named in an error."""


@dataclass(frozen=True)
class Identity:
    """The identity of a defense or an attack.

    Args:
        key: the hash of the whole identity.
        contents: the parts that its arguments do not show, see `Identities`.
    """

    key: str
    contents: dict[str, Any]


class Identities:
    """The identities of defenses and attacks, each computed once.

    Built-in code is identified by its class and `version`, and a checkpoint by its sha256; everything else follows from
    these. Code of a user is built, because only then is it known what it reads and computes. Its identity consists of

        code     the user's file, the user's modules that it imports, and data files named in the source
        files    files and folders that are named by arguments
        state    all attributes of the built object; if it cannot be built, there is a `failure` instead

    An object that was passed in Python is identified by the user's code that it consists of, and by its state.

    Objects are built with the global generators seeded (see `Component.build`), so that an object with random numbers
    inside is the same each time.
    """

    def __init__(self) -> None:
        self._known: dict[str, Identity] = {}

    def of(self, component: Component) -> Identity:
        """The identity of a component.

        Raises:
            UserError: the component is the user's code, and rejects its arguments.
        """
        instance = id(component.instance) if isinstance(component, Given) else None
        entry = json.dumps([str(component.cls), str(component.base), component.resolved(), instance])
        if entry not in self._known:
            self._known[entry] = self._compute(component)
        return self._known[entry]

    def key(self, component: Component) -> str:
        """The hash of the identity of a component."""
        return self.of(component).key

    def _compute(self, component: Component) -> Identity:
        counted = {name: value for name, value in component.arguments.items() if _counts(component, name, value)}
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
        """What an argument contributes. A defense or attack inside another contributes its own key."""
        if isinstance(value, Component):
            return self.key(value)
        if isinstance(value, Importable):  # the location of the user's file is not part of the identity
            return value.attribute if _is_file(value.written) else value.written
        if isinstance(value, list | tuple):
            return [self._claim(*pair) for pair in zip(value, resolved, strict=True)]
        return _contents(resolved)


def component_hash(component: Component) -> str:
    """The key of one component. To get the keys of several, use `Identities`, which builds none of them twice."""
    return Identities().key(component)


def built_state(component: Component, instance: Any = None) -> dict[str, str]:
    """A hash of each attribute of the built object. instance: the object, if it has been built already."""
    return state(component.build() if instance is None else instance, skipped=_knobs(component))


def refuse_unsteady(component: Component, identity: Identity, instance: Any) -> None:
    """Raises UserError if an instance of the user's code differs from its recorded identity."""
    recorded = identity.contents.get("state", {})
    if not {"state", "failure"} & identity.contents.keys():
        return
    current = built_state(component, instance)
    if changed := [name for name in sorted(recorded | current) if recorded.get(name) != current.get(name)]:
        raise UserError(
            f"{component.title} differs each time it is built: {', '.join(changed[:SHOWN])}",
            remedy="Draw random numbers from the global generators or a seeded one, and keep no times or names of "
            "temporary files; list an attribute that does not affect results in the class's `memory_knobs`",
            where=component.place,
        )


def cell_key(defense: str, attack: str, images: str, protocol: dict[str, Any]) -> str:
    """The key of a pairing, from the keys of its parts, the images' fingerprint and the protocol."""
    return _hash({"defense": defense, "attack": attack, "images": images, "protocol": protocol})


@dataclass(frozen=True)
class RunSetting:
    """The part of the identity that all pairings of a run have in common.

    Args:
        images: the fingerprint of the images.
        protocol: the values of the protocol that affect results.
    """

    images: str
    protocol: dict[str, Any]

    @classmethod
    def of(cls, images: str, protocol: Any) -> RunSetting:
        """Creates it from a protocol, which has the attributes `CLAIMED`."""
        return cls(images, {name: getattr(protocol, name) for name in CLAIMED})

    def key(self, defense: str, attack: str) -> str:
        """The key of a pairing, from the keys of its defense and its attack."""
        return cell_key(defense, attack, self.images, self.protocol)

    def given(self, attack: str, source: str) -> str:
        """The key of an attack that gets the images of another pairing, from its own key and that pairing's key."""
        return cell_key(attack, source, self.images, self.protocol)


def _knobs(component: Component) -> tuple[str, ...]:
    return getattr(component.cls, "memory_knobs", ())


def _counts(component: Component, name: str, value: Any) -> bool:
    """Whether an argument is part of the identity: memory knobs are not, nor additions that change nothing."""
    added = getattr(component.cls, "added", {})
    return name not in _knobs(component) and not (name in added and value == added[name])


def _code(component: Component) -> dict[str, Any]:
    cls = component.cls
    code: dict[str, Any] = {"class": cls.__qualname__, "version": getattr(cls, "version", 1)}
    if not _is_file(component.type):
        code["module"] = cls.__module__
    return code


def _own_code(component: Component) -> dict[str, str]:
    """The user's sources that a component consists of: those of its class and of objects named by its arguments."""
    if isinstance(component, Given):
        return sources_of_object(component.instance, digest_of)
    sources = _sources(component.type, component.cls.__module__, component.base)
    for value in component.arguments.values():
        if isinstance(value, Importable):
            sources |= _sources(value.written, value.module, value.base)
    for spec, base in _networks(component):
        try:
            cls = registry.find("networks", str(spec["type"]), base)
            sources |= _sources(str(spec["type"]), cls.__module__, base)
        except registry.Foreign:
            raise
        except UserError:
            continue  # it is not a network, or cannot be built; building it will report that
    return sources


def _sources(written: str, module: str, base: Path | None) -> dict[str, str]:
    """The hashes of the user's sources, or the version of an installed package. module: the module with the code."""
    package = module.partition(".")[0]
    if _is_file(written):
        return sources_of_file((base or Path()) / written.rpartition(":")[0])
    if package in OURS:
        return {}
    return sources_of_module(module) or {package: package_version(package)}


def _networks(component: Component) -> Iterator[tuple[Mapping[str, Any], Path | None]]:
    """The networks described by arguments or by cards of checkpoints, with the folders that files are relative to."""
    for value in component.arguments.values():
        if isinstance(value, Mapping) and isinstance(value.get("type"), str):
            yield value, component.place.file.parent
        elif isinstance(value, Checkpoint) and value.card and value.card.network:
            yield value.card.network, value.base


def _cards(component: Component) -> dict[str, str]:
    """Hashes of the networks on the user's cards, by argument: they affect results, and are not in the checkpoint."""
    carded = {n: v for n, v in component.arguments.items() if isinstance(v, Checkpoint) and isinstance(v.card, Card)}
    return {n: _hash(v.card.network) for n, v in carded.items() if v.card and v.ref not in packaged()}


def _files(arguments: Mapping[str, Any], component: Component) -> dict[str, str]:
    """Hashes of files and folders that arguments name, relative to the current folder and to the suite's folder."""
    hashes: dict[str, str] = {}
    for name, text in (pair for pair in _texts(arguments) if _is_path(pair[1])):
        places = dict.fromkeys(base / os.path.expanduser(text) for base in (Path(), component.base))
        contents = {known for place in places if (known := content(place))}
        if contents:
            hashes[name] = " ".join(sorted(contents))
    return hashes


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text and path in arguments, with its position in them."""
    if isinstance(value, str | PurePath):
        yield name, str(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _texts(item, f"{name}[{place}]")


def _is_path(text: str) -> bool:
    """Whether a text is written like a path. A bare word is not, even if there is a file with that name."""
    return "/" in text or os.sep in text or bool(Path(text).suffix)


def _parts(value: Any) -> list[Component]:
    """The defenses and attacks in an argument."""
    if isinstance(value, list | tuple):
        return [part for item in value for part in _parts(item)]
    return [value] if isinstance(value, Component) else []


def _is_file(written: str) -> bool:
    return written.partition(":")[0].endswith(".py")


def _contents(value: Any) -> Any:
    """Arguments in which every checkpoint is replaced by the hash of its bytes, independent of its location."""
    if isinstance(value, dict):
        if "sha256" in value:
            return f"{value['sha256']} {value['key']}" if "key" in value else value["sha256"]
        return {key: _contents(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_contents(item) for item in value]
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
