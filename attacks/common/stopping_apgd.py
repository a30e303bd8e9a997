"""AutoAttack's APGD with early stopping, and several targets in one batch.

The random starts of the targets are drawn one target after the other, for the images that remain at that point. Several
targets share a batch as if none of them succeeded. Where one does, fewer images would remain for the later ones, and
their starts would be others: they leave the batch, and are attacked anew. So what is returned is what the library finds
target by target.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from attacks.common.early_stop import EarlyStopping, Leaving, asking, runs_at_once
from harness.process import waits


class StoppingAPGD(APGDAttack):
    """The library's APGD, whose images leave once misclassified."""

    def attack_single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> tuple[Tensor, ...]:
        return _run(self, super().attack_single_run, x, y, x_init)


class StoppingTargetedAPGD(APGDAttack_targeted):
    """The library's targeted APGD, whose images leave once misclassified; outside L1, several targets in one batch."""

    leaving: Leaving | None = None

    def attack_single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> tuple[Tensor, ...]:
        return _run(self, super().attack_single_run, x, y, x_init, self.leaving)

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, C, H, W), x where nothing misled the model."""
        if self.norm == "L1":  # a start of its own means other hyper-parameters there
            found: Tensor = super().perturb(x, y)
            return found
        self.init_hyperparam(x)
        images, robust = x.clone(), self.model(x).argmax(1) == y
        torch.random.manual_seed(self.seed)
        ranks = [rank for rank in range(2, self.n_target_classes + 2) for _ in range(self.n_restarts)]
        while ranks and len(rows := waits.rows(robust)):
            together = ranks[: runs_at_once(self.model, len(rows))]
            attacked, misclassified, done = self._aimed(x[rows], y[rows], together)
            images[rows] = torch.where(misclassified.view(-1, 1, 1, 1), attacked, x[rows])
            robust[rows], ranks = ~misclassified, ranks[done:]
        return images

    def _aimed(self, x: Tensor, y: Tensor, ranks: list[int]) -> tuple[Tensor, Tensor, int]:
        """Runs at several targets, up to the first that misleads the model about any image.

        Args:
            ranks: the targets, by the rank of their logits on the clean image, 2 and up.

        Returns:
            The images of that run, (N, C, H, W), which of them are misclassified, (N,) bool, and how many runs count.
        """
        runs = len(ranks)
        order = self.model(x).sort(dim=1).indices
        starts, states = [], []
        for _ in ranks:
            starts.append(self._start(x))
            states.append(torch.get_rng_state())
        self.y_target = torch.cat([order[:, -rank] for rank in ranks])
        self.leaving = partial(_earlier_decide, runs)
        copies, labels = x.repeat(runs, 1, 1, 1), y.repeat(runs)
        try:
            _, robust, _, images = self.attack_single_run(copies, labels, x_init=torch.cat(starts))
        finally:
            self.leaving = None
        misclassified = ~robust.view(runs, len(x))
        succeeded = waits.rows(misclassified.any(1)).tolist()
        last = succeeded[0] if succeeded else runs - 1
        torch.set_rng_state(states[last])
        return images.view(runs, *x.shape)[last], misclassified[last], last + 1

    def _start(self, x: Tensor) -> Tensor:
        """The random start that the library's run would draw, (N, C, H, W)."""
        noise = 2 * torch.rand(x.shape) - 1 if self.norm == "Linf" else torch.randn(x.shape)
        start: Tensor = x + self.eps * self.normalize(noise.to(x.device))
        return start


def _earlier_decide(runs: int, misclassified: Tensor) -> Tensor:
    """Which rows of several runs one after the other, (runs * N,) bool, cannot count: all after a run that succeeded.

    Those that are misclassified themselves need no evaluation either.
    """
    succeeded = misclassified.view(runs, -1).any(1).long()
    after = succeeded.cumsum(0) > succeeded
    return misclassified | after.repeat_interleave(len(misclassified) // runs)


def _run(
    attack: Any,
    run: Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    y: Tensor,
    x_init: Tensor | None,
    leaving: Leaving | None = None,
) -> tuple[Tensor, ...]:
    """A run of APGD: iterates of highest loss, whether images are robust, the losses, the misclassified images."""
    if attack.eps != attack.eps_orig:  # in a larger ball, where nothing counts yet
        return run(x, y, x_init)
    model = EarlyStopping(attack.model, x, y, leaving=leaving)
    highest, robust, loss, images = x, torch.ones_like(model.left), torch.zeros(len(x)).to(x), x
    with asking(attack, "model", model):
        highest, robust, loss, images = run(x, y, x_init)
    return highest, robust & ~model.misclassified, loss, model.adversarial(images)
