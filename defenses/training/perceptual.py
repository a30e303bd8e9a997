"""Perceptual adversarial training (Laidlaw, Singla & Feizi 2021, arXiv:2006.12655, Sec. 3 to 5).

    min_theta E[ max_{x': d(x, x') <= bound} CE(f_theta(x'), y) ]

d is the distance of `harness.threats.lpips`, between activations of the network in training itself ("self-bounded").
The maximum is looked for as in Fast-LPA: for
i = 0..S-1 ascend

    max_{j != y} z_j - z_y - lambda_i max(0, d(x, x') - bound),     lambda_i = 10^(i/S)

along its normalised gradient u, by a step that changes d by about eta_i = bound * 0.1^(i/S): of length eta_i / m, where
m = d(x', x' + h u) / h. The paper leaves it at the penalty; here the result is then drawn back along the segment to x
until the bound holds.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.training.classifier import jittered
from harness.errors import UserError
from harness.quantity import Quantity
from harness.threat import L2
from harness.threats.lpips import Perceiving, unit_features
from harness.training import Trainer, as_used, logits_of, normalised

_START = 0.01
"""Standard deviation of the noise that the search starts from: at x itself the distance has no gradient."""

_PROBE = 0.1
"""h above, an L2 length on the [0, 1] scale."""

_STEEPEST = L2(Quantity(1)).steepest

_LEAST_CHANGE = 1e-3
"""Least m above, so that a network that sees no change along u does not make a disproportionate step."""

_HALVINGS = 10
"""Halvings of the segment to x: they locate its end to one part in 2^10."""


class Classifying(Perceiving, Protocol):
    """A classifier that shows its activations. Its input is normalised."""

    def head(self, last: Tensor) -> Tensor:
        """Logits (N, K) from the last of them."""


class Perceptual(Trainer):
    """Minimises cross-entropy on the worst images within a perceptual distance, made anew for every batch.

    Args:
        bound: the distance; five layers are at most sqrt(10) apart, for activations of at least 0.
        steps: S of the search for the worst image.
        shift: images are moved by up to so many pixels along each axis before they are attacked.

    Raises:
        UserError: a bound or count that means nothing.
    """

    def __init__(self, bound: float = 0.5, steps: int = 10, shift: int = 0) -> None:
        if bound <= 0 or steps < 1 or shift < 0:
            raise UserError(
                f"bound is {bound}, steps is {steps} and shift is {shift}",
                remedy="Give a positive bound, at least one step, and a shift of 0 or more",
            )
        self.bound, self.steps, self.shift = bound, steps, shift

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = jittered(x, self.shift)
        return F.cross_entropy(logits_of(network, self.worst(network, x, y)), y)

    def worst(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The adversarial images, (N, C, H, W) in [0, 1], within the bound of x (N, C, H, W); y: labels (N,)."""
        if not callable(getattr(network, "activations", None)):
            raise UserError(
                f"{type(network).__name__} does not show its activations",
                remedy="Train a network with `activations` and `head`, such as pat_resnet",
            )
        with as_used(network):
            here = features(network, x).detach()
            x_adv = (x + _START * torch.randn(x.shape).to(x)).clamp(0, 1)
            for i in range(self.steps):
                x_adv = self._ascended(network, here, x_adv, y, i / self.steps)
            return self._within(network, here, x, x_adv)

    def _ascended(self, network: nn.Module, here: Tensor, x_adv: Tensor, y: Tensor, progress: float) -> Tensor:
        x_adv.requires_grad_()
        activations = _perceiving(network).activations(normalised(network, x_adv))
        there, logits = unit_features(activations), _perceiving(network).head(activations[-1])
        own = F.one_hot(y, logits.shape[1]).bool()
        margin = logits.masked_fill(own, -torch.inf).amax(1) - logits.gather(1, y[:, None]).squeeze(1)
        objective = margin - 10**progress * F.relu((there - here).norm(dim=1) - self.bound)
        (grad,) = torch.autograd.grad(objective.sum(), x_adv)
        x_adv, unit = x_adv.detach(), _STEEPEST(grad)
        with torch.no_grad():
            change = (features(network, x_adv + _PROBE * unit) - there).norm(dim=1) / _PROBE
        length = self.bound * 0.1**progress / change.clamp(min=_LEAST_CHANGE)
        return (x_adv + length[:, None, None, None] * unit).clamp(0, 1)

    @torch.no_grad()
    def _within(self, network: nn.Module, here: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
        """The farthest point of the segment from x to x_adv that bisection finds within the bound."""

        def along(share: Tensor) -> Tensor:
            return x + share[:, None, None, None] * (x_adv - x)

        def allowed(share: Tensor) -> Tensor:
            return (features(network, along(share)) - here).norm(dim=1) <= self.bound

        whole = torch.ones(len(x)).to(x)
        low, high = whole.where(allowed(whole), 0), whole
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = allowed(middle)
            low, high = middle.where(inside, low), high.where(inside, middle)
        return along(low)


def features(network: nn.Module, x: Tensor) -> Tensor:
    """phi(x), (N, D), of images (N, C, H, W) in [0, 1]."""
    return unit_features(_perceiving(network).activations(normalised(network, x)))


def _perceiving(network: nn.Module) -> Classifying:
    return cast(Classifying, network)
