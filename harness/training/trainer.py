"""What a trainer knows: its loss, what it remembers between steps, and how its network classifies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Trainer(ABC):
    """A way to train a network. Constructor arguments are the keys of the recipe's `trainer:` entry.

    Random numbers come from torch's global generator: the training loop seeds it before every call, from the recipe's
    seed and the step, so that a run can be resumed at any step. A trainer whose loss depends on more than network,
    batch and generator hands that over in `state`, for the same reason.

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
        return logits_of(network, x)

    def state(self) -> dict[str, Tensor]:
        """What the next step's loss depends on besides network, batch and generator, by name; kept in checkpoints."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` gave, on the CPU; never asked where that was nothing."""
        raise TypeError(f"{type(self).__name__} must define restore(state)")


def normalised(network: nn.Module, x: Tensor) -> Tensor:
    """Images as the network expects them: by its own `preprocessing`, where it has one; both (N, C, H, W)."""
    own = getattr(network, "preprocessing", None)
    images: Tensor = x if own is None else own(x)
    return images


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] -> logits (N, K), as a defense without arguments of its own asks for them."""
    logits: Tensor = network(normalised(network, x))
    return logits


@contextmanager
def as_used(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, as it will be attacked or sampled from, and back in training mode after."""
    network.eval()
    try:
        yield
    finally:
        network.train()
