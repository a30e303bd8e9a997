"""A plain classifier: the baseline that every defense is compared with."""

from __future__ import annotations

from typing import Any

from harness.weights import Checkpoint
from harness.weights.normalization import NormalizedNetwork


class Undefended(NormalizedNetwork):
    """Any classifier, by architecture and weights: logits = network((x - mean) / std).

    Args:
        weights: its checkpoint, or in Python also the name or path of one.
        network: its architecture, `{type: ..., ...}`; left out, the one on the checkpoint's card.
        mean, std: normalisation by channel; both left out, the network's `preprocessing` or that of a layer in the
            checkpoint, and without these it gets images as they are.

    Raises:
        UserError: the weights do not fit the network, a standard deviation is not positive, or there are two
            normalisations.
    """

    def __init__(
        self,
        weights: Checkpoint,
        network: dict[str, Any] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        checkpoint = Checkpoint.find(weights)
        super().__init__(checkpoint.network(network), mean, std, checkpoint)
