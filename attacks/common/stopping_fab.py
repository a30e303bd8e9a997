"""AutoAttack's FAB with early stopping, and several targets in one batch: they draw no random numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from attacks.common.early_stop import EarlyStopping, Leaving, asking, runs_at_once
from attacks.common.one_draw import OneDraw
from harness.process import waits
from harness.threat import Pixels


class StoppingFAB(FABAttack_PT):
    """The library's FAB, whose images leave once misclassified; without restarts, several targets in one batch.

    Args:
        threat: the budget.
    """

    def __init__(self, model: OneDraw, threat: Pixels, **options: Any) -> None:
        super().__init__(model, **options)
        self.threat = threat
        self.aims: Tensor | None = None
        self.leaving: Leaving | None = None

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, C, H, W), x where nothing misled the model."""
        if not self.targeted or self.n_restarts > 1:
            found: Tensor = super().perturb(x, y)
            return found
        images, robust = x.clone(), self._get_predicted_label(x) == y
        targets = list(range(2, self.n_target_classes + 2))
        while targets and len(rows := waits.rows(robust)):
            together = runs_at_once(self.predict, len(rows))
            attacked, misclassified = self._aimed(x[rows], y[rows], targets[:together])
            images[rows] = torch.where(misclassified.view(-1, 1, 1, 1), attacked, x[rows])
            robust[rows], targets = ~misclassified, targets[together:]
        return images

    def _aimed(self, x: Tensor, y: Tensor, targets: list[int]) -> tuple[Tensor, Tensor]:
        """What the first target that succeeds makes of each image, (N, C, H, W), and whether one does, (N,) bool.

        targets: by the rank of their logits on the clean image, 2 and up.
        """
        with torch.no_grad():
            order = self.predict(x).sort(dim=1).indices
        copies, labels = x.repeat(len(targets), 1, 1, 1), y.repeat(len(targets))
        ranks = F.one_hot(torch.cat([order[:, -rank] for rank in targets]), order.shape[1])
        self.aims = ranks + 2 * F.one_hot(labels, order.shape[1])  # the second of these is the target
        self.leaving = partial(_one_suffices, len(targets))
        self.target_class = 2
        try:
            attacked = self.attack_single_run(copies, labels, is_targeted=True)
        finally:
            self.aims = self.leaving = None
        misclassified = self._misclassified(copies, attacked, labels).view(len(targets), len(x))
        first, each = misclassified.int().argmax(0), torch.arange(len(x), device=x.device)
        return attacked.view(len(targets), *x.shape)[first, each], misclassified.any(0)

    def _misclassified(self, x: Tensor, images: Tensor, y: Tensor) -> Tensor:
        """Whether images are misclassified within the budget, (N,) bool."""
        return (self._get_predicted_label(images) != y) & (self.threat.size(x, images) <= float(self.threat.eps))

    def attack_single_run(
        self, x: Tensor, y: Tensor, use_rand_start: bool = False, is_targeted: bool = False
    ) -> Tensor:
        model, images = EarlyStopping(self.predict, x, y, within=self.threat, leaving=self.leaving), x
        with asking(self, "predict", model):
            images = super().attack_single_run(x, y, use_rand_start, is_targeted)
        return model.adversarial(images)

    def _predict_fn(self, x: Tensor) -> Tensor:
        """Logits; of several targets in a batch, numbers whose second largest is the target's."""
        found: Tensor = self.predict(x) if self.aims is None else self.aims
        return found

    def _get_predicted_label(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.predict(x).argmax(1)
        return found


def _one_suffices(targets: int, misclassified: Tensor) -> Tensor:
    """Which rows of several targets, (targets * N,) bool, belong to images that one of the targets succeeded on."""
    return misclassified.view(targets, -1).any(0).repeat(targets)
