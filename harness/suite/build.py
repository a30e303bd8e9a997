"""The one way from an entry of a suite to a defense that is asked, and whether an attack may be tried on it."""

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
        component: its entry in the suite.
        dataset: whose classes it must tell apart; None where any will do.
        identity: what it must be, as it was built for the keys of its results; None where no result rests on it.

    Returns:
        The defense, on the CPU unless its constructor moves it.

    Raises:
        UserError: it cannot be built, tells other classes apart, or is another each time it is built.

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
    """Makes sure that the number of a pairing would mean something, before the attack is tried.

    Args:
        cell: the pairing that is named in the message.
        attack, defense: as they were built.
        shape: (C, H, W), of the images; None where only the defense is looked at.

    Raises:
        UserError: the attack cannot work on this defense, or on images of this shape; says why.
    """
    fault = attack.unsuitable(defense) or (attack.unsuitable_images(shape) if shape else None)
    if fault:
        raise UserError(
            f"{cell.attack.title} does not fit {cell.defense.title}: {fault}",
            remedy="Give this pairing another attack under `pairings`, or leave it out",
            where=cell.attack.place,
        )
