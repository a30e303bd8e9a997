"""Defenses and attacks written inside the entry of another.

    diffpure: {weights: ..., classifier: {type: undefended, weights: digits-cnn}}
    worst:    {type: worst_of, norm: Linf, eps: 8/255, attacks: [{type: pgd, steps: 10}, {type: autoattack}]}

The constructor annotates the argument `InnerDefense` or `InnerAttack`, and calls `built` on what it is given. An inner
attack has the budget of the outer one, where it does not say otherwise. What is inside counts in a result's identity as
if it stood alone: its code, its arguments and the contents of its checkpoints.

Example:
    >>> class Behind(Defense):
    ...     def __init__(self, classifier: InnerDefense) -> None:
    ...         super().__init__()
    ...         self.classifier = built(classifier)
    ...
    ...     def classify(self, x):
    ...         return self.classifier(x)
    >>> class Second(Attack):
    ...     def __init__(self, first: InnerAttack, gradient="exact", eot=1) -> None:
    ...         super().__init__(gradient=gradient, eot=eot)
    ...         self.first = built(first)
    ...         self.threat = self.first.threat
    ...
    ...     def perturb(self, target, x, y):
    ...         return self.first.perturb(target, x, y)
    ...
    ...     def cost(self, num_classes):
    ...         return self.first.cost(num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from harness.attack import Attack
from harness.config.component import BUDGET, Class, Component, bind, check_budget, class_of, parameters
from harness.config.yaml_file import Node
from harness.defense import Defense


@dataclass(frozen=True)
class Inner:
    """Marks an argument as an entry of a kind ("defenses" or "attacks")."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._bound)

    def _bound(self, written: Any, info: core_schema.ValidationInfo) -> Component:
        if not isinstance(written, dict):
            names = f"`harness list {self.kind}` lists the names"
            raise ValueError(f"it must be an entry of its own, such as {{type: NAME, ...}}; {names}")
        context = info.context or {}
        node = next(found for found in _nodes(context["node"]) if found.plain() == written)
        if self.kind == "attacks":
            node = _with_budget(node, context["entry"])
        component = bind(self.kind, str(written.get("type", "inner")), node)
        if self.kind == "attacks":
            check_budget(component)
        return component


InnerDefense = Annotated[Component | Defense, Inner("defenses")]
InnerAttack = Annotated[Component | Attack, Inner("attacks")]


def built(part: Component | Defense | Attack) -> Any:
    """The defense or attack: from a suite's entry a new one, from Python the one that was given.

    Raises:
        UserError: its constructor refused its arguments, or failed.
    """
    return part.build() if isinstance(part, Component) else part


def inner_entries(cls: Class, entry: Node) -> Iterator[Node]:
    """The entries of defenses written inside a defense's entry. cls: the class that the entry names."""
    hints = get_type_hints(cls.__init__, include_extras=True)
    for name, hint in hints.items():
        given = entry.child(name)
        if given and isinstance(given.value, dict) and Inner("defenses") in _marks(hint):
            yield given


def _marks(hint: Any) -> list[Any]:
    found = list(getattr(hint, "__metadata__", ()))
    return found + [mark for part in get_args(hint) if get_origin(hint) is not Annotated for mark in _marks(part)]


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    children = node.value.values() if isinstance(node.value, dict) else node.value
    for child in children if isinstance(node.value, dict | list) else ():
        yield from _nodes(child)


def _with_budget(node: Node, outer: dict[str, Node]) -> Node:
    accepted = parameters(class_of("attacks", "inner", node))
    inherited = {key: outer[key] for key in BUDGET if key in outer and key in accepted and key not in node.value}
    return Node({**inherited, **node.value}, node.place, node.key)
