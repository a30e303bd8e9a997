"""JEM: a classifier that is also an energy-based model (Grathwohl et al. 2020, arXiv:1912.03263, Sec. 3).

    p(y | x) = softmax(logits(x))_y,     p(x) ∝ exp(-E(x)),     E(x) = -logsumexp_y logits_y(x)

Low energy means a likely image.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from defenses.undefended import Undefended
from harness.errors import UserError
from harness.randomness import normal
from harness.weights import Checkpoint


class JEM(Undefended):
    """A classifier whose logits were trained to be an energy as well.

    Args:
        weights: its checkpoint, or in Python also the name or path of one.
        network: its architecture, `{type: jem_wrn, ...}`; left out, the one on the checkpoint's card.
        noise: standard deviation of Gaussian noise on the image in [-1, 1], fresh at every call. The published scripts
            add 0.03, also at test time. With 0 the defense is deterministic.

    Raises:
        UserError: the weights do not fit the network, or `noise` is negative.
    """

    def __init__(self, weights: Checkpoint, network: dict[str, Any] | None = None, noise: float = 0.0) -> None:
        super().__init__(weights, network)
        if noise < 0:
            raise UserError(f"noise is {noise}", remedy="It is a standard deviation; 0 means none")
        self.noise, self.stochastic = noise, noise > 0

    def classify(self, x: Tensor) -> Tensor:
        if self.stochastic:
            x = x + self.noise / 2 * normal(self.seeds_for(x).to(x.device), x.shape[1:], x.dtype)
        return super().classify(x)

    def energy(self, x: Tensor) -> Tensor:
        """E(x), up to a constant -log p(x): (N, C, H, W) -> (N,)."""
        return -self.classify(x).logsumexp(1)
