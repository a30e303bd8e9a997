"""Builds a defense from its entry in a suite, and checks that an attack is suitable for it."""

from __future__ import annotations

from harness.attack import Attack
from harness.config.component import Component
from harness.datasets.dataset import Dataset
from harness.defense import Defense
from harness.errors import UserError
from harness.suite.cell_key import Identity, refuse_unsteady
from harness.suite.plan import Cell


def build_defense(component: Component, dataset: Dataset | None = None, *, identity: Identity | None = None) -> Defense:
    """Builds a defense for evaluation: in evaluation mode, and without gradients to its parameters.

    Args:
        component: the entry of the defense in the suite.
        dataset: the dataset whose number of classes the defense must have; None to skip this check.
        identity: the identity that the keys of its results are made of; None if no result depends on it.

    Returns:
        The defense, on the CPU unless its constructor moves it.

    Raises:
        UserError: it cannot be built, has another number of classes, or differs each time it is built.

    Example:
        >>> from harness.suite.plan import load_suite
        >>> plan = load_suite("suites/quickstart.yaml")
        >>> defense = build_defense(plan.cells[0].defense)
        >>> defense.training, any(parameter.requires_grad for parameter in defense.parameters())
        (False, False)
    """
    defense: Defense = component.build()
    defense.eval().requires_grad_(False)
    if dataset is not None:
        dataset.refuse_classes_of(defense, component.title, component.place)
    if identity is not None:
        refuse_unsteady(component, identity, defense)
    return defense


def refuse_unsuitable(cell: Cell, attack: Attack, defense: Defense, shape: tuple[int, ...] | None = None) -> None:
    """Checks that the result of a pairing would be meaningful, before the attack starts.

    Args:
        cell: the pairing to name in the message.
        attack, defense: the built instances.
        shape: (C, H, W) of the images; None to check the defense only.

    Raises:
        UserError: the attack cannot work on this defense, or on images of this shape; the message gives the reason.
    """
    fault = attack.unsuitable(defense) or (attack.unsuitable_images(shape) if shape else None)
    if fault:
        raise UserError(
            f"{cell.attack.title} does not fit {cell.defense.title}: {fault}",
            remedy="Give this pairing another attack under `pairings`, or leave it out",
            where=cell.attack.place,
        )
