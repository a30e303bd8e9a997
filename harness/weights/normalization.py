"""The normalisation (x - mean) / std of images. It is a part of the defense, so attacks always work in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.defense import Defense
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.weights.checkpoint import Checkpoint

DIGITS = 5e-4
"""Two numbers that differ by no more than this count as equal, since published numbers are rounded."""


class Normalization(NamedTuple):
    """The layer (x - mean) / std before a network. `mean` and `std` have one number, or one per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the images (N, C, H, W) normalised, in the same shape."""
        mean, std = (x.new_tensor(numbers)[:, None, None] for numbers in self)
        return (x - mean) / std

    def agrees(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Tells whether `mean` and `std` are those of this normalisation, up to rounding."""
        pairs = [(a, b) for own, other in zip(self, (mean, std), strict=True) for a, b in _paired(own, other)]
        return all(abs(a - b) <= DIGITS for a, b in pairs)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{number:.6g}" for number in numbers) for numbers in self)
        return f"(x - mean) / std with mean [{mean}], std [{std}]"


class NormalizedNetwork(Defense):
    """A network after a normalisation of its input: logits = network((x - mean) / std). Images are not resized.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> NormalizedNetwork(network, mean=[0.5], std=[0.25])(torch.rand(2, 3, 2, 2)).shape
        torch.Size([2, 5])

    Args:
        network: the network, which maps normalised images (N, C, H, W) to logits (N, K).
        mean, std: one number per channel, or one for all channels. If both are left out, the normalisation is the one
            that the network states in its attribute `preprocessing`, or the layer that the checkpoint holds. If there
            is neither, the network receives the images without a normalisation.
        checkpoint: the checkpoint of the network. Its card states the number of classes, and the accuracy to be
            expected on which dataset.

    Raises:
        UserError: a standard deviation is not positive, a number is not finite, or `mean` and `std` are given although
            the checkpoint holds a normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        if mean is None and std is None and (stated := stated_by(network)):
            mean, std = stated
        elif checkpoint and checkpoint.normalization and not (mean is None and std is None):
            raise UserError(
                f"mean {mean} and std {std} are given, but the checkpoint has a normalisation of its own, which is "
                f"applied: {checkpoint.normalization}",
                remedy="Leave out `mean` and `std`",
            )
        self.register_buffer("mean", _by_channel("mean", [0.0] if mean is None else mean))
        self.register_buffer("std", _by_channel("std", [1.0] if std is None else std))
        if not (self.std > 0).all():
            raise UserError(f"std is {std}", remedy="Give positive numbers, one per channel")
        if checkpoint and checkpoint.card:
            self.num_classes = checkpoint.card.num_classes
            self.expected_accuracy = checkpoint.card.clean_accuracy
            self.expected_dataset = checkpoint.card.dataset

    def classify(self, x: Tensor) -> Tensor:
        channels = max(len(self.mean), len(self.std))
        if channels not in (1, x.shape[1]):  # broadcasting would silently turn grey images into coloured ones
            raise UserError(
                f"`mean` and `std` have {channels} numbers, but images of shape {tuple(x.shape[1:])} have "
                f"{x.shape[1]} channels",
                remedy="Give one number per channel, or one for all",
            )
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def stated_by(network: nn.Module) -> Normalization | None:
    """Returns the pair (mean, std) in the attribute `preprocessing` of a network, or None if it holds no such pair."""
    stated = getattr(network, "preprocessing", None)
    if not isinstance(stated, tuple | list) or len(stated) != 2 or not all(map(_are_numbers, stated)):
        return None
    return Normalization(*map(tuple, stated))


def _are_numbers(values: Any) -> bool:
    return isinstance(values, tuple | list) and len(values) > 0 and all(isinstance(value, Real) for value in values)


def _by_channel(name: str, numbers: Sequence[float]) -> Tensor:
    """Returns the numbers as a float32 tensor of shape (C, 1, 1)."""
    tensor = torch.tensor(list(numbers), dtype=torch.float32).view(-1, 1, 1)
    if not len(tensor) or not torch.isfinite(tensor).all():
        raise UserError(f"{name} is {list(numbers)}", remedy="Give finite numbers, one per channel")
    return tensor


def _paired(one: Sequence[float], other: Sequence[float]) -> list[tuple[float, float]]:
    """Pairs the numbers of the same channel. A single number counts for every channel."""
    count = max(len(one), len(other))
    return list(zip(*(list(numbers) * (count if len(numbers) == 1 else 1) for numbers in (one, other)), strict=False))
