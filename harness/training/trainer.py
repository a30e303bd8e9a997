"""What a trainer knows: its loss, and how its network classifies."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Trainer(ABC):
    """A way to train a network. Constructor arguments are the keys of the recipe's `trainer:` entry.

    Random numbers come from torch's global generator: the training loop seeds it before every call, from the recipe's
    seed and the step, so that a run can be resumed at any step.

    Attributes:
        measured: how `logits` classifies, for the card.
    """

    measured: str = "argmax of the logits"

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What is minimised: a scalar with a graph.

        Args:
            network: in training mode.
            x: images, (N, C, H, W), float32 in [0, 1].
            y: labels, (N,) int64.
        """

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> logits (N, K), for the clean accuracy. The network is in evaluation mode.

        num_classes: K, as the dataset has it.
        """
        logits: Tensor = network(x)
        return logits
