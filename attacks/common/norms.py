"""The pixel budgets that attacks are configured with."""

from __future__ import annotations

from typing import Literal

from harness.quantity import Quantity
from harness.threat import NORMS, Pixels

Norm = Literal["Linf", "L2", "L1"]


def ball(norm: Norm, eps: Quantity) -> Pixels:
    """The threat model of radius `eps` in `norm`, on the [0, 1] scale.

    Raises:
        ValueError: an unknown norm, a negative radius, or an Linf radius beyond the whole range of a pixel.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is '{norm}'; valid norms: {', '.join(NORMS)}")
    if eps < 0:
        raise ValueError(f"eps is {Quantity(eps)}; it must not be negative")
    if norm == "Linf" and eps > 1:
        raise ValueError(f"eps is {Quantity(eps)}, but images lie in [0, 1]; for 8-bit units write {Quantity(eps)}/255")
    return NORMS[norm](Quantity(eps))
