"""A target as the model of a library that averages over draws itself; it reports a view that has no gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.gradients import leads_to
from harness.target import Target


class NoGradient(RuntimeError):
    """A gradient was requested through a view of a defense that has none."""


class OneDraw(nn.Module):
    """One draw of the target per call: the library averages gradients, and not logits.

    The library does not say which images a batch belongs to. Of two batches in a row one is always part of the other,
    in order, so that equal lengths mean equal images. Looking for the nearest each time would go wrong with FAB, which
    leaves the budget; a batch of a new length does not.

    Raises:
        NoGradient: a gradient is requested, and no gradient leads from the logits to the images.
    """

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target
        self.rows = torch.empty(0, dtype=torch.int64)
        self.has_gradient = False

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != len(self.rows):
            self.rows = self.target.nearest(x)
        return self.ask(x, self.rows)

    def ask(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits, (M, K), of images x (M, C, H, W) that belong to the images `rows` (M,) of the target."""
        differentiable = x.requires_grad and torch.is_grad_enabled()
        try:
            logits = self.target.sample(x, rows, draws=1)[0]
        except RuntimeError as error:
            if differentiable and "numpy()" in str(error):  # "Can't call numpy() on Tensor that requires grad"
                raise NoGradient("no gradient leads through the NumPy arrays that the images become") from error
            raise
        if differentiable and not self.has_gradient:  # found out once: it is a walk through the whole graph
            if not leads_to(logits, x):
                raise NoGradient("no gradient leads from the logits to the images")
            self.has_gradient = True
        return logits
