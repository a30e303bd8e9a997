"""TRADES: accuracy and smoothness weighed by one number (Zhang et al. 2019, arXiv:1901.08573, Eq. 5 and Algorithm 1).

    min_theta E[ CE(f(x), y) + beta max_{x' within the budget of x} KL(p(. | x) || p(. | x')) ],    p = softmax f

The first term rewards the right prediction on the image, the second an equal prediction around it, right or wrong. The
maximum is approached by steps of steepest ascent from a point near x, since at x itself the gradient is zero.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.training.classifier import jittered
from harness.errors import UserError
from harness.quantity import Quantity
from harness.threat import LARGEST, NORMS, Pixels
from harness.training import Trainer, as_used, logits_of

_START = 1e-3
"""Standard deviation of the noise that the ascent starts from, as published."""


class TRADES(Trainer):
    """Minimises cross-entropy plus beta times the worst divergence within a budget.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        beta: weight of the divergence; 0 is ordinary training.
        steps: of the search for the worst image.
        step_size: length of one, in `norm`; 2.5 * eps / steps unless given.
        shift: images are moved by up to so many pixels along each axis before anything else.

    Raises:
        UserError: a budget, weight or count that means nothing.
    """

    def __init__(
        self,
        norm: Literal["Linf", "L2"],
        eps: Quantity,
        beta: float = 6.0,
        steps: int = 10,
        step_size: Quantity | None = None,
        shift: int = 0,
    ) -> None:
        if not 0 < eps <= LARGEST.get(NORMS[norm], eps):
            raise UserError(f"eps is {eps}", remedy="Images lie in [0, 1]; for 8-bit units write 8/255")
        if beta < 0 or steps < 1 or shift < 0:
            raise UserError(
                f"beta is {beta}, steps is {steps} and shift is {shift}",
                remedy="Give beta and shift of 0 or more, and at least one step",
            )
        self.threat: Pixels = NORMS[norm](eps)
        self.step_size = 2.5 * float(eps) / steps if step_size is None else float(step_size)
        self.beta, self.steps, self.shift = beta, steps, shift

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = jittered(x, self.shift)
        x_adv = self.farthest(network, x)
        logits = logits_of(network, x)
        return F.cross_entropy(logits, y) + self.beta * divergence(logits, logits_of(network, x_adv))

    def farthest(self, network: nn.Module, x: Tensor) -> Tensor:
        """The images in the budget at which the prediction differs most from that at x; both (N, C, H, W)."""
        x_adv = self.threat.project(x, x + _START * torch.randn(x.shape).to(x))
        with as_used(network):
            with torch.no_grad():
                answer = logits_of(network, x)
            for _ in range(self.steps):
                x_adv.requires_grad_()
                (grad,) = torch.autograd.grad(divergence(answer, logits_of(network, x_adv)), x_adv)
                x_adv = self.threat.project(x, x_adv.detach() + self.step_size * self.threat.steepest(grad))
        return x_adv


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(other)), both (N, K), as a mean over the images."""
    return F.kl_div(other.log_softmax(1), logits.log_softmax(1), reduction="batchmean", log_target=True)
