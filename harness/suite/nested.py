"""Defenses and attacks written inside the entry of another.

    diffpure: {weights: ..., classifier: {type: undefended, weights: digits-cnn}}
    worst:    {type: worst_of, norm: Linf, eps: 8/255, attacks: [{type: pgd, steps: 10}, {type: autoattack}]}

The constructor annotates the argument `InnerDefense` or `InnerAttack`, and calls `built` on its value. An inner attack
has the budget of the outer one, unless it sets its own. Inner entries count in a result's identity like outer ones: by
their code, their arguments and the contents of their checkpoints.

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
from typing import Annotated, Any, get_type_hints

from harness.attack import Attack
from harness.config.component import Component
from harness.config.signature import Class, Inner, entries_inside
from harness.config.yaml_file import Node
from harness.defense import Defense

InnerDefense = Annotated[Component | Defense, Inner("defenses")]
InnerAttack = Annotated[Component | Attack, Inner("attacks")]


def built(part: Component | Defense | Attack) -> Any:
    """The inner defense or attack: a new instance for a suite's entry, or the object that was passed in Python.

    Raises:
        UserError: its constructor rejected its arguments, or failed.
    """
    return part.build() if isinstance(part, Component) else part


def inner_entries(cls: Class, entry: Node) -> Iterator[Node]:
    """The entries of the defenses inside a defense's entry. cls: the class that the entry names."""
    hints = get_type_hints(cls.__init__, include_extras=True)
    for name, hint in hints.items():
        given = entry.child(name)
        if given and isinstance(given.value, dict) and entries_inside(hint) == ("defenses", False):
            yield given
