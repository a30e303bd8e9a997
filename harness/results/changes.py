"""Describes what has changed since results were made: which argument, image, code, file or weights.

`run.json` stores under `resolved` the arguments of each defense and attack, and under `contents` the parts of their
identity that the suite does not contain (see `harness.suite.cell_key.Identities`): "defenses" by name, and "cells", the
attacks, by `DEFENSE/ATTACK`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from harness.config.imports import DATA
from harness.results.json_diff import describe

Parts = Mapping[str, Mapping[str, Any]]
"""Contents by "defenses" or "cells", then by name."""

SHOWN = 5
"""The largest number of attributes of one state that are named."""


def changes(then: Mapping[str, Any], resolved: Mapping[str, Any], contents: Parts, same_images: bool) -> list[str]:
    """Lists the differences, arguments first; empty if only the code of a built-in class has changed.

    Args:
        then: a stored manifest.
        resolved, contents: the current values, as in a manifest, of the defenses and cells to compare.
        same_images: whether the dataset still has the same images.
    """
    before = {name: part for name, part in then["resolved"].items() if name in resolved}
    differing = describe(_only(before, contents), _only(resolved, contents))
    if not (same_images or before.get("dataset") != resolved.get("dataset")):
        differing.append(f"the images or labels of dataset '{resolved['dataset']['name']}'")
    recorded = then.get("contents", {})
    for kind, singular in (("defenses", "defense"), ("cells", "attack of")):
        for name, now in contents.get(kind, {}).items():
            differing += culprits(f"{singular} '{name}'", recorded.get(kind, {}).get(name), now)
    return differing


def culprits(title: str, then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Lists the differences between the recorded and the current contents of a defense or an attack.

    Args:
        title: the name in messages, such as "defense 'mine'".
        then: the recorded contents; None if an earlier version of the harness did not record them.
    """
    if then is not None:
        return list(_differing(title, then, now))
    unknown = f"the code, files and weights of {title} may have changed: they were not recorded"
    return [unknown] if "state" in now else []


def _differing(title: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if then.get("version") != now.get("version"):
        yield f"the code of {title}: version {then.get('version')} -> {now.get('version')}"
    for name in _names("code", then, now):
        yield f"{name} ({'named in the code' if name.endswith(DATA) else 'code'} of {title})"
    for name in _names("files", then, now):
        yield f"the files that '{name}' of {title} names"
    if "failure" in now:
        yield str(now["failure"])
    elif attributes := _names("state", then, now):
        more = ", …" if len(attributes) > SHOWN else ""
        yield f"the weights and state of {title} as built ({', '.join(attributes[:SHOWN])}{more})"
    for name in _names("cards", then, now):
        yield f"the network on the card of '{name}' of {title}"
    for name in sorted({name for name in {**then, **now} if name.endswith("]")}):
        yield from _differing(f"'{name}' of {title}", then.get(name, {}), now.get(name, {}))


def _names(kind: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = then.get(kind, {}), now.get(kind, {})
    return [name for name in sorted({**before, **after}) if before.get(name) != after.get(name)]


def _only(resolved: Mapping[str, Any], contents: Parts) -> dict[str, Any]:
    """Resolved values without the defenses and cells that are not compared."""
    kept: dict[str, Collection[str]] = {kind: contents.get(kind, {}) for kind in ("defenses", "cells")}
    return {
        key: {name: part for name, part in value.items() if name in kept[key]} if key in kept else value
        for key, value in resolved.items()
    }
