"""Auto-PGD through the adjoint equation of purification, which is an approximation (Nie et al., 2022)."""

from __future__ import annotations

from attacks.common.one_view import OneView


class Adjoint(OneView):
    """APGD with `gradient: adjoint`. Its other arguments are those of `APGD`."""

    view = "adjoint"
