"""What an attack asks of a defense."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.journal.tensors import digest_of
from harness.search import Narrowing


@dataclass(frozen=True)
class Question:
    """A query, by all that its answer depends on.

    Args:
        title: the view, and what is asked of it.
        draws: of each image.
        images: (M, C, H, W).
        seeds: of the images, (M,); earlier: the number of queries before this one of each image, (M,).
        differentiable: whether the answer may be differentiated.
        narrowing: what may be left out.
    """

    title: str
    draws: int
    images: Tensor
    seeds: Tensor
    earlier: Tensor
    differentiable: bool
    narrowing: Narrowing | None

    def digest(self) -> bytes:
        """16 bytes."""
        facts: list[object] = [self.title, self.draws, self.differentiable]
        tensors: list[Tensor | None] = [self.images, self.seeds, self.earlier]
        if (narrowing := self.narrowing) is not None:
            facts += [narrowing.search.model_dump(), narrowing.full, narrowing.every_class]
            tensors += [narrowing.classes, narrowing.labels, narrowing.importance]
        return digest_of(facts, tensors)
