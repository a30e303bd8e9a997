"""Arguments that decide how long a defense or an attack takes, and their upper limits in `harness run --smoke`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CAPS: Mapping[str, int] = {
    "steps": 2,
    "timesteps": 1,
    "purify_timesteps": 1,
    "samples": 2,
    "eot": 2,
    "restarts": 1,
    "rounds": 1,
    "draws": 2,
    "per_class": 2,
}
"""Upper limits of such arguments in a smoke run, by their names in the built-in defenses and attacks."""


def capped(arguments: Mapping[str, Any], caps: Mapping[str, int]) -> dict[str, Any]:
    """Limits arguments: numbers to their cap, lists to that length; "all" is replaced by the cap.

    Args:
        arguments: the arguments of a constructor.
        caps: the upper limits, by the name of the argument.

    Example:
        >>> capped({"steps": 100, "eta": 0.2, "timesteps": [5, 6, 7]}, {"steps": 2, "timesteps": 1})
        {'steps': 2, 'eta': 0.2, 'timesteps': [5]}
    """
    return {name: _capped(value, caps[name]) if name in caps else value for name, value in arguments.items()}


def _capped(value: Any, cap: int) -> Any:
    if isinstance(value, list):
        return value[:cap]
    if value == "all":
        return cap
    return min(value, cap) if isinstance(value, int | float) else value
