"""What is found out about a defense before its images are attacked, in whichever process that was."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.checks.gradient_noise import GradientNoise
from harness.config.component import Component
from harness.defense import Defense
from harness.weights.checkpoint import checkpoints

FACTS = ("stochastic", "expected_accuracy", "expected_dataset", "smoothing_sigma", "noise_seed")
"""Attributes of a defense that the manifest records."""


@dataclass(frozen=True)
class Examined:
    """A defense as it was built and examined.

    Args:
        facts: the values of `FACTS`; None if it could not be built.
        remarks: of the gates.
        noise: of the gradients that each attack meets, by `DEFENSE/ATTACK`, as far as it was measured.
        broken: why there is no defense, or None.
        values: the digest of its parameters and buffers (`Guard.digest`). Built elsewhere, it must have the same.
        evaluations: network evaluations in a forward and in a backward pass.
        together: how many of its images are attacked together, see `harness.evaluation.together`.
        num_classes: the number of its classes, if it is known.
        checkpoints: the notes and the remarks of each of its checkpoints, in order.
    """

    facts: dict[str, Any] | None = None
    remarks: list[str] = field(default_factory=list)
    noise: dict[str, GradientNoise | None] = field(default_factory=dict)
    broken: str | None = None
    values: str | None = None
    evaluations: tuple[float, float] = (1.0, 1.0)
    together: int = 1
    num_classes: int | None = None
    checkpoints: list[tuple[list[str], list[str]]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        component: Component,
        defense: Defense,
        values: str,
        remarks: list[str],
        noise: dict[str, GradientNoise | None],
        together: int = 1,
    ) -> Examined:
        """Describes a defense that was built from a component. values, remarks, noise, together: see above."""
        return cls(
            facts=facts_of(defense),
            remarks=remarks,
            noise=noise,
            values=values,
            evaluations=evaluations_of(defense),
            together=together,
            num_classes=defense.num_classes,
            checkpoints=[(list(known.notes), list(known.remarks)) for known in checkpoints(component)],
        )

    def hand_on(self, component: Component) -> None:
        """Hands on to this process's checkpoints what those said that another process has loaded."""
        for checkpoint, (notes, remarks) in zip(checkpoints(component), self.checkpoints, strict=False):
            checkpoint.notes, checkpoint.remarks = list(notes), list(remarks)


def facts_of(defense: Defense | type[Defense]) -> dict[str, Any]:
    """The values of `FACTS`. Those of a class that each instance computes for itself are the defaults."""
    facts = {name: getattr(defense, name) for name in FACTS}
    return {name: getattr(Defense, name) if isinstance(fact, property) else fact for name, fact in facts.items()}


def evaluations_of(defense: Defense) -> tuple[float, float]:
    """Network evaluations in a forward and in a backward pass of an image."""
    with suppress(Exception):  # a user's method; it only decides what is computed first
        forward = float(defense.cost())
        return forward, forward * float(defense.backward_cost)
    return 1.0, 1.0
