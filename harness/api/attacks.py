"""Attacks that were given in Python, as the attacks of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.api.data import GivenData
from harness.api.presets import PresetAttack, presets
from harness.attack import Attack
from harness.config import registry
from harness.config.component import BUDGET, Component, bind, check_budget, class_of, parameters
from harness.config.given import Given
from harness.config.yaml_file import Node
from harness.errors import Place, UserError, nearest
from harness.quantity import Quantity

AttackLike = str | Attack | Mapping[str, Any]
"""A name, an object, or an entry as in a suite, such as {"type": "pgd", "steps": 40}."""

Attacks = AttackLike | Sequence[AttackLike] | Mapping[str, AttackLike]
"""One, several, or several by the names that columns of the table get."""

USUAL_NORM = "Linf"


@dataclass(frozen=True)
class Budget:
    """The budget of attacks that do not bring one, and the usual ones where the call says none.

    Args:
        norm, eps: what the call says.
        data: whose usual budget is looked up.
        place: the line of the call.
    """

    norm: str | None
    eps: Quantity | None
    data: GivenData
    place: Place

    @property
    def said(self) -> bool:
        return self.norm is not None or self.eps is not None

    def entry(self) -> dict[str, str]:
        """The keys `norm` and `eps` of an attack's entry.

        Raises:
            UserError: nobody says eps, and there is no usual one.
        """
        norm, eps = self.norm or USUAL_NORM, self.eps
        if eps is None:
            usual = presets().usual(self.data.name, self.data.shape())
            if norm not in usual:
                known = ", ".join(f"{name} {eps}" for name, eps in usual.items())
                raise UserError(
                    f"there is no usual {norm} budget for these images" + (f", but there is {known}" if known else ""),
                    remedy='Give `eps`, on the [0, 1] scale, such as eps="8/255"',
                    where=self.place,
                )
            eps = usual[norm]
        return {"norm": norm, "eps": str(eps)}


def attacks_of(attacks: Attacks, budget: Budget, stochastic: set[bool]) -> dict[str, dict[bool, Component | None]]:
    """The attacks of a call by name; and for each, what meets deterministic (False) and stochastic (True) defenses.

    Args:
        stochastic: which kinds of defenses there are.

    Raises:
        UserError: something is no attack, has arguments that it does not take, or two budgets.
    """
    items = _items(attacks)
    if not items:
        raise UserError("there is no attack", remedy='Give one, such as "quick"', where=budget.place)
    found: dict[str, dict[bool, Component | None]] = {}
    for wanted, item in items:
        parts = list(_found(item, budget, stochastic))
        for own, kinds in parts:
            name = own if wanted is None else wanted if len(parts) == 1 else f"{wanted}-{own}"
            found[_free(name, found)] = kinds
    return {
        name: {kind: component and _renamed(component, name) for kind, component in kinds.items()}
        for name, kinds in found.items()
    }


def _items(attacks: Attacks) -> list[tuple[str | None, AttackLike]]:
    """Each attack, with the name that the call gives it. A mapping of attacks by name has no text as its `type`."""
    if isinstance(attacks, str | Attack):
        return [(None, attacks)]
    if not isinstance(attacks, Mapping):
        return [(None, item) for item in attacks]
    if isinstance(attacks.get("type"), str) or not all(isinstance(v, str | Attack | Mapping) for v in attacks.values()):
        return [(None, attacks)]
    return list(attacks.items())


def _found(
    item: AttackLike, budget: Budget, stochastic: set[bool]
) -> Iterator[tuple[str, dict[bool, Component | None]]]:
    if isinstance(item, Attack):
        if budget.said:
            raise UserError(
                f"the attack {type(item).__name__} has its own budget, {item.threat}",
                remedy="Leave out `norm` and `eps`",
                where=budget.place,
            )
        name = type(item).__name__
        yield name, dict.fromkeys(stochastic, Given.of("attacks", name, item, name, budget.place))
    elif isinstance(item, Mapping):
        if not isinstance(item.get("type"), str):
            raise UserError(
                "an attack has no type", remedy='Name one, as in {"type": "pgd", "steps": 40}', where=budget.place
            )
        yield _plain(item["type"]), dict.fromkeys(stochastic, _bound(dict(item), budget))
    elif isinstance(item, str) and item in presets().presets:
        for name, attack in presets().presets[item].items():
            if attack.norms and (budget.norm or USUAL_NORM) not in attack.norms:
                continue
            kinds = {kind: _of_preset(attack, kind, budget) for kind in stochastic}
            if any(kinds.values()):  # else no defense of the call meets it
                yield name, kinds
    elif isinstance(item, str):
        _refuse_unknown(item, budget.place)
        yield _plain(item), dict.fromkeys(stochastic, _bound({"type": item}, budget))
    else:
        raise UserError(
            f"an attack is of type {type(item).__name__}",
            remedy="Give names of attacks or presets, entries as in a suite, or objects of a harness.Attack",
            where=budget.place,
        )


def _of_preset(attack: PresetAttack, stochastic: bool, budget: Budget) -> Component | None:
    entry = attack.stochastic if stochastic else attack.deterministic
    return None if entry is None else _bound(entry, budget)


def _bound(entry: dict[str, Any], budget: Budget) -> Component:
    """An entry with the budget of the call, where its class takes one and the entry says none."""
    plain = {key: str(value) if isinstance(value, Quantity) else value for key, value in entry.items()}
    node = Node.of(plain, budget.place)
    name = _plain(plain["type"])
    accepted = parameters(class_of("attacks", name, node))
    own = [key for key in BUDGET if key in plain]
    if {"norm", "eps"} <= accepted.keys() and not own:
        node = Node.of({**plain, **budget.entry()}, budget.place)
    elif budget.said and "eps" in accepted and not own:
        raise UserError(
            f"the budget of attack '{name}' has a unit of its own, and is no `norm` and `eps` of a call",
            remedy=f'Give it in its entry, such as {{"type": "{plain["type"]}", "eps": 0.5}}',
            where=budget.place,
        )
    elif budget.said:
        why = f"has its own budget ({', '.join(own)})" if own else "takes no `norm` and `eps`"
        raise UserError(f"attack '{name}' {why}", remedy="Leave them out of the call", where=budget.place)
    component = bind("attacks", name, node)
    check_budget(component)
    return component


def _refuse_unknown(name: str, place: Place) -> None:
    """Raises UserError for a name that is neither an attack's nor a preset's, with the nearest of both."""
    known = [entry.name for entry in registry.entries("attacks")]
    if ":" not in name and not name.endswith(".py") and name not in known:
        raise UserError(
            f"there is no attack or preset '{name}'", remedy=nearest(name, [*known, *presets().presets]), where=place
        )


def _plain(written: str) -> str:
    """A name for an attack of this type."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", written.rpartition(":")[2]).strip("_.-") or "attack"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number behind where another attack has it."""
    number = next(n for n in range(1, len(taken) + 2) if (f"{name}-{n}" if n > 1 else name) not in taken)
    return f"{name}-{number}" if number > 1 else name


def _renamed(component: Component, name: str) -> Component:
    return replace(component, name=name)
