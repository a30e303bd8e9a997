"""A model for AutoAttack's APGD and FAB that stops evaluating an image once a deterministic defense misclassifies it.

The library runs all steps for every image of a batch. Its algorithms, their random numbers and their verdicts are kept,
image by image; what is saved are evaluations that can no longer change a verdict. An image leaves the batch once an
iterate that counts is misclassified, and that iterate is returned: the first one, where the library returns the last of
APGD or the nearest of FAB. A misclassification counts if rounding in another batch could not undo it, see
`clearly_misclassified` in `attacks.common.losses`.

So few images may be left that a batch of them wastes the machine. Then several runs of an attack, such as those for
different targets, share a batch, as long as it is no larger than the shard's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attacks.common.losses import clearly_misclassified
from attacks.common.one_draw import OneDraw
from harness.process import waits
from harness.threat import Pixels

ROUNDED = 1 - 1e-6
"""Share of the budget within which the library's float32 arithmetic finds an image too."""

Leaving = Callable[[Tensor], Tensor]
"""From which rows are misclassified, (M,) bool, to which need no further evaluation, (M,) bool."""


class AllLeft(Exception):
    """No row of the batch needs a further evaluation."""


class EarlyStopping(nn.Module):
    """The model of a batch that is attacked for several steps: it evaluates only what is not yet misclassified.

    For the others it repeats the last logits, with a gradient of zero.

    Args:
        model: evaluates images.
        x: the clean images, (M, C, H, W).
        y: labels, (M,).
        within: a misclassified image counts only if it lies within this budget; left out, all do.
        leaving: which rows need no further evaluation; by default those that are misclassified. It never takes back
            what it said when fewer were misclassified.
    """

    def __init__(
        self, model: OneDraw, x: Tensor, y: Tensor, *, within: Pixels | None = None, leaving: Leaving | None = None
    ) -> None:
        super().__init__()
        self.model, self.x, self.y, self.within, self.leaving = model, x, y, within, leaving
        self.places = model.target.nearest(x)
        self.left = self.misclassified = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.images, self.logits = x.clone(), x.new_empty(0)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (M, K). A batch of another size is none of the steps, and is evaluated as it is.

        Raises:
            AllLeft: no row needs an evaluation.
        """
        if len(images) != len(self.x):
            found: Tensor = self.model(images)
            return found
        rows = waits.rows(~self.left)
        if not len(rows):
            raise AllLeft
        if len(rows) == len(images):
            logits = self.model.ask(images, self.places)
        else:
            logits = self.logits.index_copy(0, rows, self.model.ask(images[rows], self.places[rows]))
        self.logits = logits.detach()
        self._learn(images.detach())
        return logits

    def adversarial(self, images: Tensor) -> Tensor:
        """The images (M, C, H, W), with misclassified ones in their places."""
        return torch.where(self.misclassified.view(-1, 1, 1, 1), self.images, images)

    def _learn(self, images: Tensor) -> None:
        new = ~self.left & clearly_misclassified(self.logits, self.y)
        if self.within is not None:
            new &= self.within.size(self.x, images) <= ROUNDED * float(self.within.eps)
        self.images = torch.where(new.view(-1, 1, 1, 1), images, self.images)
        self.misclassified = self.misclassified | new
        self.left = self.misclassified if self.leaving is None else self.leaving(self.misclassified)


@contextmanager
def asking(attack: Any, name: str, model: EarlyStopping) -> Iterator[None]:
    """An attack of the library asks `model` in place of its own, and ends when all rows have left.

    Args:
        name: the attribute of `attack` that is its model.
    """
    setattr(attack, name, model)
    try:
        yield
    except AllLeft:
        pass
    finally:
        setattr(attack, name, model.model)


def runs_at_once(model: OneDraw, remaining: int) -> int:
    """How many runs of an attack on so many images make a batch no larger than the shard."""
    return max(1, len(model.target.seeds) // remaining)
