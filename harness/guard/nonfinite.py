"""What NaN and infinities an attack met, image by image: no verdict on such an image would mean anything.

Everything is kept on the images' device, and nothing waits for it before `NonFinite.reasons` is asked.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

Place = Literal["image", "logits", "energy", "loss", "gradient"]
"""Where a number was not finite."""

SENTENCES: dict[Place, str] = {
    "image": "the attack asked about an image with NaN or infinite pixels",
    "logits": "the defense gave NaN or infinite logits to the attack, on {}",
    "energy": "the defense gave a NaN or infinite energy to the attack, on {}",
    "loss": "the loss of the attack was NaN or infinite, on {}",
    "gradient": "the gradient of the attack was NaN or infinite, on {}",
}
"""In the order in which one follows from another."""

_PLACES = tuple(SENTENCES)


class NonFinite:
    """Which of `count` images met what. `take` gives a view of some of them that writes into the same memory."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._times = torch.zeros(len(_PLACES), 2 * count, dtype=torch.int32, device=device)
        self._count = count
        self._rows = torch.arange(count, device=device)

    def take(self, rows: Tensor) -> NonFinite:
        """The record of the images `rows` (M,), which are 0 to M - 1 in it."""
        part = copy.copy(self)
        part._rows = self._rows[rows]
        return part

    def checked(self, place: Place, values: Tensor, rows: Tensor, perturbed: Tensor, instead: Tensor) -> Tensor:
        """The values, with those of `instead` for an image of which not all are finite; that image is remembered.

        Args:
            values: (M, ...).
            rows: the images that they belong to, (M,); an image may be there several times.
            perturbed: whether they are of a perturbed image or of the clean one, (M,) bool.
            instead: finite values, of a shape that broadcasts to that of `values`.
        """
        finite = torch.isfinite(values).flatten(1).all(1)
        column = self._rows[rows] + self._count * perturbed
        self._times[_PLACES.index(place)].index_add_(0, column, (~finite).int())
        return torch.where(finite.view(-1, *[1] * (values.dim() - 1)), values, instead)

    def reasons(self) -> list[str | None]:
        """For each image, the first thing it met that was not finite, as a clause; None where there was nothing."""
        met = (self._times > 0).view(len(_PLACES), 2, -1)[:, :, self._rows].cpu()
        return [_sentence(met[:, :, row]) for row in range(met.shape[2])]


def _sentence(met: Tensor) -> str | None:
    """met: (places, 2) bool, on the clean image and on perturbed ones."""
    for place, (clean, perturbed) in zip(_PLACES, met.tolist(), strict=True):
        if clean or perturbed:
            return SENTENCES[place].format("the clean image" if clean else "a perturbed image")
    return None
