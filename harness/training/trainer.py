"""The contract of a trainer: its loss, its state between steps, and how its network classifies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Trainer(ABC):
    """A way to train a network. Constructor arguments are the keys of the recipe's `trainer:` entry.

    Random numbers come from torch's global generator: the training loop seeds it before every call, from the recipe's
    seed and the step, so that a run can be resumed at any step. For the same reason, a trainer whose loss depends on
    more than network, batch and generator returns that in `state`.

    Attributes:
        measured: a description of how `logits` classifies, for the card.
    """

    measured: str = "argmax of the logits"

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss to minimise: a scalar with a graph.

        Args:
            network: the network, in training mode.
            x: images, (N, C, H, W), float32 in [0, 1].
            y: labels, (N,) int64.
        """

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        """Computes logits (N, K) of images (N, C, H, W) in [0, 1], for the clean accuracy, in evaluation mode.

        num_classes: the number of classes of the dataset, K.
        """
        return logits_of(network, x)

    def state(self) -> dict[str, Tensor]:
        """State that the next step's loss depends on besides network, batch and generator; stored in checkpoints."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restores the result of `state`, on the CPU; not called if that was empty."""
        raise TypeError(f"{type(self).__name__} must define restore(state)")


def normalised(network: nn.Module, x: Tensor) -> Tensor:
    """Applies the network's own `preprocessing`, if it has one; images in and out, (N, C, H, W)."""
    own = getattr(network, "preprocessing", None)
    images: Tensor = x if own is None else own(x)
    return images


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """Computes logits (N, K) of images (N, C, H, W) in [0, 1], with the network's own preprocessing."""
    logits: Tensor = network(normalised(network, x))
    return logits


@contextmanager
def as_used(network: nn.Module) -> Iterator[None]:
    """Switches to evaluation mode, in which the network will be used, and back to training mode afterwards."""
    network.eval()
    try:
        yield
    finally:
        network.train()
