"""Which of the state dicts in a file is meant, where a training script saved more than one.

    {"state_dict": {...}, "optimizer": ..., "epoch": 3}      one: it is the one
    {"model": {...}, "ema": {...}}                           two of one network: a question, answered by `#key=ema`
    {"model": {...}, "ema": {"shadow_params": [...]}}        averages without names: a question too

A key is a path of keys with dots between, or the prefix that the tensors of a flat state dict share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from harness.errors import UserError
from harness.weights.formats import state_dict_keys

USUAL = ("state_dict", "model_state_dict", "model", "net")
"""What training scripts call the weights."""

AVERAGED = ("ema", "averag", "shadow", "swa")
"""Words in the keys of averages."""

DEEPEST, SHOWN = 3, 5
SHARED = 0.5
"""Two state dicts with so large a part of their names in common are two sets of weights of one network."""


def chosen(content: Mapping[str, Any], key: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Chooses the state dict in the content of a file, and returns notes on the choice.

    Args:
        content: a dictionary of any kind.
        key: which one, where the user said so.

    Raises:
        UserError: there is none, it is not the only one, or none is called so.
    """
    found = dict(state_dicts(content))
    if key is not None:
        return _called(key, content, found)
    if "" in found:
        return found[""], []
    usual = [path for path in USUAL if path in found]
    level = min((path.count(".") for path in found), default=0)
    first = usual[0] if usual else next((path for path in found if path.count(".") == level), None)
    if first is None:
        keys = ", ".join(repr(key)[:50] for key in list(content)[:SHOWN])
        raise UserError(f"The file holds no state dict, but {keys or 'nothing'}", remedy=_remedy())
    rivals = [path for path in found if path in usual or not usual or _same_network(found[path], found[first])]
    nameless = [path for path in _lists(content) if _is_average(path)]
    if len(rivals) + len(nameless) > 1:
        raise _question(found, rivals, nameless)
    return found[first], [f"taken from '{first}'", *_left(content, first)]


def state_dicts(content: Any, path: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every state dict in the content of a file, by its path; the path of the whole content is ""."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield path, dict(content)
    elif path.count(".") < DEEPEST - 1:
        for key, value in content.items():
            yield from state_dicts(value, f"{path}.{key}" if path else key)


def _called(
    key: str, content: Mapping[str, Any], found: dict[str, dict[str, Tensor]]
) -> tuple[dict[str, Tensor], list[str]]:
    if key and key in found:
        return found[key], [f"taken from '{key}', as asked", *_left(content, key)]
    flat, prefix = found.get("", {}), f"{key}."
    named = {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
    if named:
        return named, [f"the tensors whose names begin with '{prefix}', as asked; {len(flat) - len(named)} left aside"]
    known = sorted(found.keys() - {""} | {name.partition(".")[0] for name in flat if "." in name})
    raise UserError(
        f"The file holds no weights called '{key[:50]}'",
        remedy=f"It has {', '.join(repr(name)[:50] for name in known[:SHOWN])}" if known else "Leave `#key=` out",
    )


def _question(found: dict[str, dict[str, Tensor]], rivals: list[str], nameless: list[str]) -> UserError:
    told = [f"'{path}' ({len(found[path])} tensors{', averaged' * _is_average(path)})" for path in rivals]
    told += [f"'{path}' (averages without names)" for path in nameless]
    best = next((path for path in rivals if _is_average(path)), rivals[0])
    return UserError(
        f"The file holds {len(told)} sets of weights: {', '.join(told[:SHOWN])[:400]}",
        remedy=f"Say which one you mean behind the file's name, as in `#key={best[:50]}`",
    )


def _left(content: Mapping[str, Any], path: str) -> list[str]:
    rest = [repr(key)[:50] for key in content if key != path.partition(".")[0]]
    return [f"left aside: {', '.join(rest[:SHOWN])}{', …' if len(rest) > SHOWN else ''}"] if rest else []


def _same_network(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    plain = [set(state_dict_keys.unwrapped(tensors)[0]) for tensors in (one, other)]
    return len(plain[0] & plain[1]) >= SHARED * min(map(len, plain))


def _lists(content: Any, path: str = "") -> Iterator[str]:
    """Paths of lists of tensors."""
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
