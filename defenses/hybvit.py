"""HybViT: a vision transformer trained to classify images and to denoise them (Yang et al. 2022, arXiv:2208.07791)."""

from __future__ import annotations

from typing import Any

from defenses.networks import hybvit
from defenses.undefended import Undefended
from harness.weights import Checkpoint


class HybViT(Undefended):
    """The classifier of a hybrid model, p(y | x). It sees clean images in [-1, 1], and no timestep.

    Args:
        weights: its checkpoint, or in Python also the name or path of one.
        network: its architecture, `{type: hybvit, ...}`; left out, the one on the checkpoint's card.

    Raises:
        UserError: the weights do not fit the network.
    """

    def __init__(self, weights: Checkpoint, network: dict[str, Any] | None = None) -> None:
        mean, std = map(list, hybvit.HybViT.preprocessing)
        super().__init__(weights, network, mean, std)
