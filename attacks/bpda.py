"""Auto-PGD with BPDA: purification replaced by its surrogate on the backward pass (Athalye et al., 2018)."""

from __future__ import annotations

from attacks.common.one_view import OneView


class BPDA(OneView):
    """APGD with `gradient: bpda`. Its other arguments are those of `APGD`."""

    view = "bpda"
