"""Thermometer encoding (Buckman et al., 2018).

    purify(x) = q / l,  q = round(l x)          l levels
    code_k    = 1 if q > k else 0               k = 0 .. l-1, the code of each pixel, seen by a network trained on it

The derivative of rounding is zero, and so is the gradient of `gradient: exact`. The defense is broken by BPDA (Athalye
et al., 2018, Sec. 5.2.1), which differentiates a ramp in place of the steps. Here the network's own encoding is that
ramp, and equals the code at every multiple of 1/l, see `defenses.networks.thermometer_cnn`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from defenses.canaries.bit_depth import quantised
from defenses.undefended import Undefended
from harness.errors import UserError
from harness.weights import Checkpoint


class Thermometer(Undefended):
    """A network that encodes each pixel as a thermometer of several levels.

    Args:
        weights, network: as for `Undefended`; the network has the number of its `levels` as an attribute.

    Raises:
        UserError: the network has no such encoding.
    """

    def __init__(self, weights: Checkpoint, network: dict[str, Any] | None = None) -> None:
        super().__init__(weights, network)
        levels = getattr(self.network, "levels", None)
        if not isinstance(levels, int):
            raise UserError(
                f"the network of '{Checkpoint.find(weights).ref}' has no thermometer encoding",
                remedy="Name a network that has one, such as digits-thermometer",
            )
        self.levels = levels

    def purify(self, x: Tensor) -> Tensor:
        return quantised(x, self.levels)
