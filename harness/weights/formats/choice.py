"""Chooses a state dict from a file in which a training script may have saved several.

    {"state_dict": {...}, "optimizer": ..., "epoch": 3}      the only one is chosen
    {"model": {...}, "ema": {...}}                           two for the same network: the user must add `#key=ema`
    {"model": {...}, "ema": {"shadow_params": [...]}}        averages without names: the user must choose here too

A key consists of the keys of the nested dictionaries, joined by dots. In a flat state dict, it is a prefix that some of
the tensors share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from harness.errors import UserError
from harness.weights.formats import state_dict_keys

USUAL = ("state_dict", "model_state_dict", "model", "net")
"""The keys under which training scripts usually save the weights."""

AVERAGED = ("ema", "averag", "shadow", "swa")
"""A key that contains one of these words holds averaged weights."""

DEEPEST = 3
"""The largest depth of nested dictionaries that are searched."""

SHOWN = 5
"""The largest number of keys that a message names."""

SHARED = 0.5
"""Two state dicts belong to the same network if they share at least this fraction of the names of the smaller one."""


def chosen(content: Mapping[str, Any], key: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Chooses a state dict from the content of a file, and returns it with notes on the choice.

    Args:
        content: the dictionary that the file holds.
        key: the key of the state dict that the user named, or None.

    Raises:
        UserError: there is no state dict, there are several and no key, or none has this key.
    """
    candidates = dict(state_dicts(content))
    if key is not None:
        return _by_key(key, content, candidates)
    if "" in candidates:
        return candidates[""], []
    usual = [path for path in USUAL if path in candidates]
    level = min((path.count(".") for path in candidates), default=0)
    first = usual[0] if usual else next((path for path in candidates if path.count(".") == level), None)
    if first is None:
        keys = ", ".join(repr(key)[:50] for key in list(content)[:SHOWN])
        raise UserError(f"The file holds no state dict, but {keys or 'nothing'}", remedy=_remedy())
    rivals = [
        path for path in candidates if path in usual or not usual or _same_network(candidates[path], candidates[first])
    ]
    nameless = [path for path in _lists(content) if _is_average(path)]
    if len(rivals) + len(nameless) > 1:
        raise _ambiguous(candidates, rivals, nameless)
    return candidates[first], [f"taken from '{first}'", *_ignored(content, first)]


def state_dicts(content: Any, path: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields every state dict in the content of a file with its path. The path of the content itself is ""."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield path, dict(content)
    elif path.count(".") < DEEPEST - 1:
        for key, value in content.items():
            yield from state_dicts(value, f"{path}.{key}" if path else key)


def _by_key(
    key: str, content: Mapping[str, Any], candidates: dict[str, dict[str, Tensor]]
) -> tuple[dict[str, Tensor], list[str]]:
    if key and key in candidates:
        return candidates[key], [f"taken from '{key}', as asked", *_ignored(content, key)]
    flat, prefix = candidates.get("", {}), f"{key}."
    named = {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
    if named:
        return named, [f"the tensors whose names begin with '{prefix}', as asked; {len(flat) - len(named)} left aside"]
    known = sorted(candidates.keys() - {""} | {name.partition(".")[0] for name in flat if "." in name})
    raise UserError(
        f"The file holds no weights called '{key[:50]}'",
        remedy=f"It has {', '.join(repr(name)[:50] for name in known[:SHOWN])}" if known else "Leave `#key=` out",
    )


def _ambiguous(candidates: dict[str, dict[str, Tensor]], rivals: list[str], nameless: list[str]) -> UserError:
    """Returns the error for a file with several sets of weights, which asks the user to choose one."""
    descriptions = [f"'{path}' ({len(candidates[path])} tensors{', averaged' * _is_average(path)})" for path in rivals]
    descriptions += [f"'{path}' (averages without names)" for path in nameless]
    best = next((path for path in rivals if _is_average(path)), rivals[0])
    return UserError(
        f"The file holds {len(descriptions)} sets of weights: {', '.join(descriptions[:SHOWN])[:400]}",
        remedy=f"Say which one you mean behind the file's name, as in `#key={best[:50]}`",
    )


def _ignored(content: Mapping[str, Any], path: str) -> list[str]:
    """Returns a note on the entries of the file that are not used, if there are any."""
    rest = [repr(key)[:50] for key in content if key != path.partition(".")[0]]
    return [f"left aside: {', '.join(rest[:SHOWN])}{', …' if len(rest) > SHOWN else ''}"] if rest else []


def _same_network(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tells whether two state dicts have so many names in common that they belong to the same network."""
    plain = [set(state_dict_keys.unwrapped(tensors)[0]) for tensors in (one, other)]
    return len(plain[0] & plain[1]) >= SHARED * min(map(len, plain))


def _lists(content: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of the lists of tensors in the content of a file."""
    if isinstance(content, Mapping) and path.count(".") < DEEPEST:
        for key, value in content.items():
            if isinstance(key, str):
                yield from _lists(value, f"{path}.{key}" if path else key)
    elif isinstance(content, list | tuple) and len(content) > 1 and all(isinstance(item, Tensor) for item in content):
        yield path


def _is_average(path: str) -> bool:
    return any(word in path.lower() for word in AVERAGED)


def _remedy() -> str:
    return f"Save one state dict, bare or under one of {', '.join(USUAL)}"
