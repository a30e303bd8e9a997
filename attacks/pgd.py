"""Projected gradient descent (Madry et al., 2018), with restarts, momentum and expectation over transformation.

    m_{i+1} = mu m_i + g_i / mean |g_i|,        g_i = grad_x E[loss(f(x_i), y)], the mean over `eot` draws
    x_{i+1} = project(x_i + step_size * steepest(m_{i+1}))         steepest: sign for Linf, m / ||m||_2 for L2

Returned is the iterate of largest margin max_{j != y} z_j - z_y among all that were evaluated, the last one included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.common.budget import Norm, ball
from attacks.common.losses import LOSSES, LossName, margin
from harness.attack import Attack, Cost, Step, Target
from harness.defense import Defense
from harness.gradients import Gradient
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal, uniform
from harness.threat import Pixels

_START = derive("pgd", "random start")

_ROUNDING = 1e-5
"""Margins below this share of the largest logit may change sign with the batch size; they are no reason to stop."""


class PGD(Attack):
    """Projected gradient descent, with restarts, momentum, EOT and the best iterate kept.

    On a deterministic defense an image leaves the batch as soon as the real defense misclassifies it. On a stochastic
    one no image does, since one lucky draw proves nothing; the best iterate is then the one of largest margin of the
    mean logits over the `eot` draws.

    With `gradient: blind` the defense's real answer costs one more forward pass per step while images may stop early.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        steps: gradient steps of one restart.
        step_size: length of a step in `norm`; 2.5 * eps / steps unless given, enough to cross the ball from anywhere.
        loss: what is maximised, see `attacks.common.losses`; `ce` is safe from softmax saturation, `ce-plain` is not.
        restarts: independent random starts; later ones attack only the images still standing.
        random_start: start at a random point of the ball instead of at the image.
        momentum: mu above; 0 is plain PGD.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.
        early_stop: let images leave the batch once fooled (deterministic defenses only).

    Raises:
        ValueError: a budget, count or combination that means nothing.
    """

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        steps: int = 40,
        step_size: Quantity | None = None,
        loss: LossName = "ce",
        restarts: int = 1,
        random_start: bool = True,
        momentum: float = 0.0,
        gradient: Gradient = "exact",
        eot: int = 1,
        early_stop: bool = True,
    ) -> None:
        super().__init__(gradient=gradient, eot=eot)
        if steps < 1 or restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
        if restarts > 1 and not random_start:
            raise ValueError(f"{restarts} restarts from one point would all be the same; set random_start: true")
        if step_size is not None and step_size <= 0:
            raise ValueError(f"step_size is {step_size}; it must be positive")
        if loss not in LOSSES:
            raise ValueError(f"loss is '{loss}'; valid losses: {', '.join(LOSSES)}")
        self.threat: Pixels = ball(norm, eps)
        self.steps, self.restarts, self.random_start, self.momentum = steps, restarts, random_start, momentum
        self.step_size = 2.5 * float(eps) / steps if step_size is None else float(step_size)
        self.loss, self.early_stop = loss, early_stop

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        """The strongest iterate of each image; NaN where a gradient was not finite and no iterate was misclassified."""
        stops = self.early_stop and not target.defense.stochastic
        real = target.real if stops and self.gradient == "blind" else None

        def query(images: Tensor, rows: Tensor) -> Step:
            step = target.step(images, rows, lambda logits, of: LOSSES[self.loss](logits, y[of]))
            return replace(step, logits=real(images, rows)) if real else step

        best = Best.of(x, y)
        for restart in range(self.restarts):
            rows = (~best.fooled).nonzero().squeeze(1) if stops else torch.arange(len(x), device=x.device)
            if not len(rows):
                break
            start = self._start(x[rows], fold(target.seeds[rows], _START, restart))
            plan = self.threat, self.steps, self.step_size, self.momentum, stops
            last, rows = ascend(best, x, start, rows, query, *plan)
            if len(rows):
                best.update(last, rows, (real or target)(last, rows))
        return best.outcome()

    def cost(self, num_classes: int) -> Cost:
        """Of an image that is never fooled; on a deterministic defense one that is fooled costs less."""
        gradients = self.eot * self.restarts * self.steps
        checks = gradients if self.gradient == "blind" and self.early_stop else 0
        return Cost(gradients + checks + self.eot * self.restarts, gradients)

    def unsuitable(self, defense: Defense) -> str | None:
        if self.loss == "dlr" and defense.num_classes is not None and defense.num_classes < 3:
            return f"the dlr loss needs at least 3 classes, not {defense.num_classes}; use loss: margin"
        return super().unsuitable(defense)

    def describe(self) -> str:
        return f"{super().describe()}, {self.steps} steps, {self.loss} loss"

    def _start(self, x: Tensor, seeds: Tensor) -> Tensor:
        if not self.random_start:
            return x
        return self.threat.random(x, uniform(fold(seeds, 0), x.shape[1:]), normal(fold(seeds, 1), x.shape[1:]))


@dataclass
class Best:
    """The strongest iterate seen of each image, and what is known about it. y: labels (N,).

    images: (N, C, H, W); margins: (N,), -inf before the first iterate; fooled: (N,), the margin is clearly positive;
    broken: (N,), a gradient was not finite.
    """

    y: Tensor
    images: Tensor
    margins: Tensor
    fooled: Tensor
    broken: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Best:
        no = torch.zeros_like(y, dtype=torch.bool)
        return cls(y, x.clone(), torch.full_like(y, -torch.inf, dtype=x.dtype), no, no.clone())

    def update(self, images: Tensor, rows: Tensor, logits: Tensor) -> None:
        """images: (M, C, H, W), iterates of the images `rows` (M,), with their logits (M, K)."""
        margins = margin(logits, self.y[rows])
        better = margins >= self.margins[rows]  # of equals the later: it has climbed further in the attack's own view
        rows, margins = rows[better], margins[better]
        self.images[rows], self.margins[rows] = images[better], margins.to(self.margins)
        self.fooled[rows] |= margins > _ROUNDING * logits[better].abs().amax(1)

    def outcome(self) -> Tensor:
        lost = self.broken & ~(self.margins > 0)
        return self.images.where(~_column(lost, self.images), torch.nan)


def ascend(
    best: Best,
    x: Tensor,
    start: Tensor,
    rows: Tensor,
    query: Callable[[Tensor, Tensor], Step],
    threat: Pixels,
    steps: int,
    step_size: float,
    momentum: float,
    stops: bool,
) -> tuple[Tensor, Tensor]:
    """One restart: `steps` gradient steps from `start` (M, C, H, W) for the images `rows` (M,) of x (N, C, H, W).

    `best` learns of every iterate that was queried. Where `stops`, an image leaves once it is fooled.

    Returns:
        The iterates after the last step, not yet queried, and the rows they belong to: both of the images still in.
    """
    images, velocity = start, torch.zeros_like(start)
    for _ in range(steps):
        step = query(images, rows)
        best.update(images, rows, step.logits)
        best.broken[rows] |= ~torch.isfinite(step.grad).flatten(1).all(1)
        velocity = momentum * velocity + _normalised(step.grad.nan_to_num(0, 0, 0))
        images = threat.project(x[rows], images + step_size * threat.steepest(velocity))
        if stops:
            standing = ~best.fooled[rows]
            images, velocity, rows = images[standing], velocity[standing], rows[standing]
            if not len(rows):
                break
    return images, rows


def _normalised(grad: Tensor) -> Tensor:
    """Scaled to a mean magnitude of 1 per image, so that momentum weighs directions and not the loss's scale."""
    size = grad.abs().flatten(1).mean(1).clamp(min=torch.finfo(grad.dtype).tiny)
    return grad / _column(size, grad)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
