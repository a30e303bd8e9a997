"""Auto-PGD with one view of the defense: the gradient through everything, purification included."""

from __future__ import annotations

from attacks.common.one_view import OneView


class ExactGradient(OneView):
    """APGD with `gradient: exact`. Its other arguments are those of `APGD`."""

    view = "exact"
