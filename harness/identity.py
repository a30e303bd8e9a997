"""What a number claims, as a hash: same key, same claim.

A cell's key covers the implementation and arguments of defense and attack, the contents of checkpoints, the images and
the protocol. It leaves out names, paths, batch size and hardware.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.components import Component

CLAIMED = ("votes", "seed", "shard")
"""What of the protocol decides results."""


def component_hash(component: Component) -> str:
    """Identity of a defense or attack: its code (by version, or by source for a user's file) and its arguments."""
    knobs = getattr(component.cls, "memory_knobs", ())
    resolved = component.resolved()
    arguments = {
        name: _claim(value, resolved[name]) for name, value in component.arguments.items() if name not in knobs
    }
    return _hash({"code": _code(component), "arguments": arguments})


def cell_key(defense: str, attack: str, images: str, protocol: dict[str, Any]) -> str:
    """Identity of a pairing, from the hashes of its parts, the images' fingerprint and the protocol."""
    return _hash({"defense": defense, "attack": attack, "images": images, "protocol": protocol})


@dataclass(frozen=True)
class Setting:
    """What the pairings of a run have in common.

    Args:
        images: their fingerprint.
        protocol: what of it decides results.
    """

    images: str
    protocol: dict[str, Any]

    @classmethod
    def of(cls, images: str, protocol: Any) -> Setting:
        """protocol: has the attributes `CLAIMED`."""
        return cls(images, {name: getattr(protocol, name) for name in CLAIMED})

    def key(self, defense: str, attack: str) -> str:
        """Of a pairing, from the identities of its defense and its attack."""
        return cell_key(defense, attack, self.images, self.protocol)

    def given(self, attack: str, source: str) -> str:
        """Identity of an attack that is given the images of another pairing, from its own and that pairing's key."""
        return cell_key(attack, source, self.images, self.protocol)


def _code(component: Component) -> dict[str, Any]:
    cls = component.cls
    code: dict[str, Any] = {"class": cls.__qualname__, "version": getattr(cls, "version", 1)}
    if component.type.partition(":")[0].endswith(".py"):
        code["source"] = hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    else:
        code["module"] = cls.__module__
    return code


def _claim(value: Any, resolved: Any) -> Any:
    """What an argument says; a defense or attack inside another says what it would alone."""
    if isinstance(value, Component):
        return component_hash(value)
    if isinstance(value, list | tuple):
        return [_claim(*pair) for pair in zip(value, resolved, strict=True)]
    return _contents(resolved)


def _contents(value: Any) -> Any:
    """Arguments with every checkpoint reduced to the hash of its bytes: where it lies is not what it is."""
    if isinstance(value, dict):
        return value["sha256"] if "sha256" in value else {key: _contents(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_contents(item) for item in value]
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
