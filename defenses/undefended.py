"""A plain classifier: the bare line that every defense is compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.defense import Defense
from harness.errors import UserError
from harness.weights import Checkpoint


class Undefended(Defense):
    """Any classifier, by architecture and weights: logits = network((x - mean) / std).

    Args:
        weights: its checkpoint, or in Python also the name or path of one.
        network: its architecture, `{type: ..., ...}`; left out, the one on the checkpoint's card.
        mean, std: normalisation by channel; both left out, the network's own `preprocessing` or that of a layer in the
            checkpoint, and without one it sees images as they are.

    Raises:
        UserError: the weights do not fit the network, a standard deviation is not positive, or there are two
            normalisations.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: Checkpoint,
        network: dict[str, Any] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__()
        checkpoint = Checkpoint.find(weights)
        self.network = checkpoint.network(network)
        if checkpoint.normalization and not (mean is None and std is None):
            raise UserError(
                f"mean {mean} and std {std} are given, but the checkpoint has a normalisation of its own, which is "
                f"applied: {checkpoint.normalization}",
                remedy="Leave out `mean` and `std`",
            )
        if mean is None and std is None and (own := getattr(self.network, "preprocessing", None)):
            mean, std = map(list, own)
        self.register_buffer("mean", torch.tensor(mean or [0.0]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std or [1.0]).view(-1, 1, 1))
        if not (self.std > 0).all():
            raise UserError(f"std is {std}", remedy="Give positive numbers, one per channel")
        if checkpoint.card:
            self.num_classes = checkpoint.card.num_classes
            self.expected_accuracy = checkpoint.card.clean_accuracy
            self.expected_dataset = checkpoint.card.dataset

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits
