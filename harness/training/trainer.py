"""The contract of a trainer: its loss, its state between steps, and how its network classifies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from harness.errors import UserError
from harness.process.foreign_code import definition


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


def loss_of(trainer: Trainer, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A trainer's loss, as `Trainer.loss` has it. Raises UserError where that is not a scalar with a graph."""
    loss: object = trainer.loss(network, x, y)
    number = isinstance(loss, Tensor) and loss.numel() == 1
    if isinstance(loss, Tensor) and number and loss.requires_grad:
        return loss.squeeze()
    raise UserError(
        f"the loss of the trainer {_named(trainer, 'loss')} is {_shown(loss)}"
        + (", which depends on no parameter of the network" if number else ""),
        remedy="Return a scalar tensor, computed from the network's outputs without `detach` or `no_grad`",
    )


def check_logits(trainer: Trainer, logits: object, images: int, num_classes: int) -> None:
    """Raises UserError where a trainer's logits are anything but (N, K)."""
    if not (isinstance(logits, Tensor) and logits.shape == (images, num_classes)):
        raise UserError(
            f"the logits of the trainer {_named(trainer, 'logits')} are {_shown(logits)} for {images} images of"
            f" {num_classes} classes",
            remedy=f"They must be a tensor of shape ({images}, {num_classes})",
        )


def _named(trainer: Trainer, method: str) -> str:
    """The class of a trainer, and where a method of the user's is."""
    place = definition(getattr(type(trainer), method))
    return type(trainer).__name__ + (f" ({place})" if place else "")


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"of type {type(value).__name__}"


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
