"""Records the NaN and infinite values of an attack, image by image: a verdict on such an image would be meaningless.

Everything is kept on the images' device, and the host does not wait for the device before `NonFinite.reasons`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Place = Literal["image", "logits", "energy", "loss", "gradient"]
"""The kinds of values that may not be finite."""

SENTENCES: dict[Place, str] = {
    "image": "the attack queried an image with NaN or infinite pixels",
    "logits": "the defense gave NaN or infinite logits to the attack, on {}",
    "energy": "the defense gave a NaN or infinite energy to the attack, on {}",
    "loss": "the loss of the attack was NaN or infinite, on {}",
    "gradient": "the gradient of the attack was NaN or infinite, on {}",
}
"""A message for each kind of value. A kind may cause the later ones, so the first one is reported."""

_PLACES = tuple(SENTENCES)


class NonFinite:
    """Non-finite values of `count` images. `take` makes a view of some images that shares the memory."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._times = torch.zeros(len(_PLACES), 2 * count, dtype=torch.int32, device=device)
        self._count = count
        self._rows = torch.arange(count, device=device)

    def take(self, rows: Tensor) -> NonFinite:
        """A view of the images `rows` (M,), which have the indices 0 to M - 1 in it."""
        part = copy.copy(self)
        part._rows = self._rows[rows]
        return part

    def checked(
        self,
        place: Place,
        values: Tensor,
        rows: Tensor,
        perturbed: Callable[[], Tensor],
        instead: Callable[[], Tensor],
    ) -> Tensor:
        """Replaces the values of an image by those of `instead` unless all of them are finite, and records the image.

        Args:
            values: (M, ...).
            rows: the images that the values belong to, (M,); an image may appear several times.
            perturbed: says whether the values belong to a perturbed image and not to the clean one, (M,) bool.
            instead: gives finite values, of a shape that broadcasts to that of `values`.
        """
        if values.device.type == "cpu" and _sum_is_finite(values):  # elsewhere the host would wait to know
            return values
        finite = torch.isfinite(values).flatten(1).all(1)
        column = self._rows[rows] + self._count * perturbed()
        self._times[_PLACES.index(place)].index_add_(0, column, (~finite).int())
        return torch.where(finite.view(-1, *[1] * (values.dim() - 1)), values, instead())

    def reasons(self) -> list[str | None]:
        """For each image, a message about its first value that was not finite; None if all were finite."""
        met = (self._times > 0).view(len(_PLACES), 2, -1)[:, :, self._rows].cpu()
        return [_sentence(met[:, :, row]) for row in range(met.shape[2])]


def _sum_is_finite(values: Tensor) -> bool:
    """Whether the sum of all values is finite: then each of them is. The converse may fail, since sums overflow."""
    return math.isfinite(values.detach().sum().item())


def _sentence(met: Tensor) -> str | None:
    """The message for one image. met: (places, 2) bool, for the clean image and for perturbed ones."""
    for place, (clean, perturbed) in zip(_PLACES, met.tolist(), strict=True):
        if clean or perturbed:
            return SENTENCES[place].format("the clean image" if clean else "a perturbed image")
    return None
