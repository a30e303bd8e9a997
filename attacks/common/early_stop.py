"""AutoAttack's APGD and FAB, which stop evaluating an image once a deterministic defense misclassifies it.

The library runs all steps for every image of a batch. Its algorithms, their random numbers and their verdicts are kept
here, image by image; what is saved are evaluations that can no longer change a verdict:

    misclassified    an image leaves the batch once an iterate that counts is misclassified, and that iterate is
                     returned: the first one, where the library returns the last of APGD or the nearest of FAB
    targets          FAB's targets draw no random numbers, so that several can be attacked in one batch, as long as it
                     is no larger than the shard's; an image leaves with all its targets

A misclassification counts if rounding in another batch could not undo it, see `clearly_misclassified` in
`attacks.common.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from attacks.common.losses import clearly_misclassified
from attacks.common.one_draw import OneDraw
from harness.process import waits
from harness.threat import Pixels

ROUNDED = 1 - 1e-6
"""Share of the budget within which the library's float32 arithmetic finds an image too."""


class AllMisclassified(Exception):
    """Nothing is left to attack."""


class EarlyStopping(nn.Module):
    """The model of a batch that is attacked for several steps: it evaluates only what is not yet misclassified.

    Of the others it repeats the last answer, with a gradient of zero.

    Args:
        model: what is asked.
        x: the clean images, (M, C, H, W).
        y: labels, (M,).
        within: a misclassified image counts only if it lies within this budget; left out, all do.
        groups: rows with the same number are of one image, and leave together: (M,) int64 in 0..M-1.
    """

    def __init__(
        self, model: OneDraw, x: Tensor, y: Tensor, *, within: Pixels | None = None, groups: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model, self.x, self.y, self.within = model, x, y, within
        self.groups = torch.arange(len(x), device=x.device) if groups is None else groups
        self.places = model.target.nearest(x)
        self.misclassified = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.images, self.logits = x.clone(), x.new_empty(0)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (M, K). A batch of another size is none of the steps, and is asked as it is.

        Raises:
            AllMisclassified: no image stands.
        """
        if len(images) != len(self.x):
            found: Tensor = self.model(images)
            return found
        rows = waits.rows(~self.misclassified)
        if not len(rows):
            raise AllMisclassified
        if len(rows) == len(images):
            logits = self.model.ask(images, self.places)
        else:
            logits = self.logits.index_copy(0, rows, self.model.ask(images[rows], self.places[rows]))
        self.logits = logits.detach()
        self._learn(images.detach())
        return logits

    def found(self, images: Tensor) -> Tensor:
        """The images (M, C, H, W), with those that fooled in their places."""
        return torch.where(self.misclassified.view(-1, 1, 1, 1), self.images, images)

    def _learn(self, images: Tensor) -> None:
        new = ~self.misclassified & clearly_misclassified(self.logits, self.y)
        if self.within is not None:
            new &= self.within.size(self.x, images) <= ROUNDED * float(self.within.eps)
        self.images = torch.where(new.view(-1, 1, 1, 1), images, self.images)
        gone = torch.zeros_like(self.misclassified).index_put(
            (self.groups[self.misclassified | new],), torch.ones_like(new[:1])
        )
        self.misclassified = gone[self.groups]


class StoppingAPGD(APGDAttack):
    """The library's APGD, whose images leave once fooled."""

    def attack_single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> tuple[Tensor, ...]:
        return _run(self, super().attack_single_run, x, y, x_init)


class StoppingTargetedAPGD(APGDAttack_targeted):
    """The library's targeted APGD, whose images leave once fooled."""

    def attack_single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> tuple[Tensor, ...]:
        return _run(self, super().attack_single_run, x, y, x_init)


def _run(
    attack: Any, run: Callable[..., tuple[Tensor, ...]], x: Tensor, y: Tensor, x_init: Tensor | None
) -> tuple[Tensor, ...]:
    """A run of APGD: iterates of highest loss, whether images stand, the losses, the images that fooled."""
    if attack.eps != attack.eps_orig:  # in a larger ball, where nothing counts yet
        return run(x, y, x_init)
    stopping = EarlyStopping(attack.model, x, y)
    highest, stand, loss, images = x, torch.ones_like(stopping.misclassified), torch.zeros(len(x)).to(x), x
    with _asking(attack, "model", stopping):
        highest, stand, loss, images = run(x, y, x_init)
    return highest, stand & ~stopping.misclassified, loss, stopping.found(images)


@contextmanager
def _asking(attack: Any, name: str, stopping: EarlyStopping) -> Iterator[None]:
    """An attack asks `stopping` in place of its model, and ends when nothing stands."""
    setattr(attack, name, stopping)
    try:
        yield
    except AllMisclassified:
        pass
    finally:
        setattr(attack, name, stopping.model)


class StoppingFAB(FABAttack_PT):
    """The library's FAB, whose images leave once fooled; without restarts, several targets in one batch.

    Args:
        threat: the budget.
    """

    def __init__(self, model: OneDraw, threat: Pixels, **options: Any) -> None:
        super().__init__(model, **options)
        self.threat = threat
        self.aims: Tensor | None = None
        self.groups: Tensor | None = None

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, C, H, W), x where it fooled nothing."""
        if not self.targeted or self.n_restarts > 1:
            found: Tensor = super().perturb(x, y)
            return found
        images, stands = x.clone(), self._get_predicted_label(x) == y
        targets = list(range(2, self.n_target_classes + 2))
        while targets and len(rows := waits.rows(stands)):
            together = max(1, len(x) // len(rows))
            attacked, fooled = self._aimed(x[rows], y[rows], targets[:together])
            images[rows] = torch.where(fooled.view(-1, 1, 1, 1), attacked, x[rows])
            stands[rows], targets = ~fooled, targets[together:]
        return images

    def _aimed(self, x: Tensor, y: Tensor, targets: list[int]) -> tuple[Tensor, Tensor]:
        """What the first target that fools makes of each image, (N, C, H, W), and whether one does, (N,).

        targets: by their rank on the clean image, 2 and up.
        """
        with torch.no_grad():
            order = self.predict(x).sort(dim=1).indices
        copies, labels = x.repeat(len(targets), 1, 1, 1), y.repeat(len(targets))
        ranks = F.one_hot(torch.cat([order[:, -rank] for rank in targets]), order.shape[1])
        self.aims = ranks + 2 * F.one_hot(labels, order.shape[1])  # the second of these is the target
        self.groups = torch.arange(len(x), device=x.device).repeat(len(targets))
        self.target_class = 2
        try:
            attacked = self.attack_single_run(copies, labels, is_targeted=True)
        finally:
            self.aims = self.groups = None
        fooled = self._fools(copies, attacked, labels).view(len(targets), len(x))
        first, each = fooled.int().argmax(0), torch.arange(len(x), device=x.device)
        return attacked.view(len(targets), *x.shape)[first, each], fooled.any(0)

    def _fools(self, x: Tensor, images: Tensor, y: Tensor) -> Tensor:
        """Whether images are misclassified within the budget, (N,) bool."""
        return (self._get_predicted_label(images) != y) & (self.threat.size(x, images) <= float(self.threat.eps))

    def attack_single_run(
        self, x: Tensor, y: Tensor, use_rand_start: bool = False, is_targeted: bool = False
    ) -> Tensor:
        stopping, images = EarlyStopping(self.predict, x, y, within=self.threat, groups=self.groups), x
        with _asking(self, "predict", stopping):
            images = super().attack_single_run(x, y, use_rand_start, is_targeted)
        return stopping.found(images)

    def _predict_fn(self, x: Tensor) -> Tensor:
        """Logits; of several targets in a batch, numbers whose second largest is the target's."""
        found: Tensor = self.predict(x) if self.aims is None else self.aims
        return found

    def _get_predicted_label(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.predict(x).argmax(1)
        return found
