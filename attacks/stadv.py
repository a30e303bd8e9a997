"""StAdv: spatially transformed adversarial examples (Xiao et al., 2018), as robustness papers run it.

    minimise over flows f, |f| <= bound per component:    -loss(defense(warp(x, f)), y) + smoothness * TV(f)

with loss the margin max_{j != y} z_j - z_y, never cut off, and TV of `attacks.common.flow`. From f = 0, `steps` times:
project f, warp, query, one step of Adam at a constant rate. Nothing is drawn at random.

A flow of 2 crosses the whole image, so the papers' bound of 0.05 is 2.5% of the width: 0.8 pixels of 32. The published
implementation returns the last flow, projected (`keep: last`). Ours keeps any flow whose image is misclassified
(`keep: any`).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.common.flow import MOMENTUM, Adam, roughness
from attacks.common.gradient_attack import BestIterates, Objective
from attacks.common.losses import EVERY_CLASS, FEWEST_CLASSES, LOSSES, LossName, loss_of
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.guard.doubt import averaged_draws, least_cosine_averaging
from harness.process import waits
from harness.quantity import Quantity
from harness.target import Target
from harness.threat import Flow, identity_grid, warp

Keep = Literal["any", "last"]

_SMOOTHNESS = 0.0025
"""The published weight of TV at a bound of 1; the weight at other bounds is in inverse proportion."""


class StAdv(Attack):
    """StAdv, a bounded flow that moves pixels instead of changing them.

    With `keep: any` an image leaves the batch as soon as the whole defense misclassifies it. An image that is never
    misclassified gets its flow of largest margin, so that this is never weaker than `keep: last` on a deterministic
    defense. On a stochastic one no image leaves, since one lucky draw proves nothing; the best flow is then the one of
    largest margin of the mean logits over the `eot` draws. With `gradient: blind` the logits of the whole defense cost
    one more forward pass per step while images may leave.

    Args:
        bound: largest flow component, in units of half the image width.
        steps: steps of Adam.
        lr: their rate, in the units of the bound.
        smoothness: weight of TV against the loss; 0.0025 / bound unless given.
        loss: what is maximised, one of the untargeted losses of `attacks.common.losses`.
        keep: "any" flow whose image is misclassified, or the "last" one in every case, as published.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a bound, a rate, a count or a name is invalid.
    """

    independent = True

    def __init__(
        self,
        bound: Quantity = Quantity("0.05"),  # noqa: B008 - immutable, and kept as it is written
        steps: int = 100,
        lr: Quantity = Quantity("0.01"),  # noqa: B008
        smoothness: Quantity | None = None,
        loss: LossName = "margin",
        keep: Keep = "any",
        gradient: Gradient = "exact",
        eot: int = 1,
    ) -> None:
        super().__init__(gradient=gradient, eot=eot)
        bound, lr = Quantity(bound), Quantity(lr)
        for name, value in {"bound": bound, "lr": lr}.items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        if smoothness is not None and smoothness < 0:
            raise ValueError(f"smoothness is {smoothness}; it must not be negative")
        for name, choice, valid in (("loss", loss, tuple(LOSSES)), ("keep", keep, get_args(Keep))):
            if choice not in valid:
                raise ValueError(f"{name} is '{choice}'; valid values: {', '.join(valid)}")
        self.threat: Flow = Flow(bound)
        self.steps, self.lr, self.loss, self.keep = steps, float(lr), loss, keep
        self.smoothness = _SMOOTHNESS / bound if smoothness is None else float(smoothness)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """Flows and their images."""
        best = BestIterates.of(x.new_zeros(len(x), *x.shape[2:], 2), y)
        stops = self.keep == "any" and not target.defense.stochastic
        real, every = stops and self.gradient == "blind", self.loss in EVERY_CLASS
        objective = Objective(target, loss_of(self.loss, y), energy=0, real=real, every_class=every)
        last, rows = self._descend(best, x, objective, stops)
        if self.keep == "last":
            flow = last
        else:
            if len(rows):
                best.update(last, rows, objective.logits(warp(x[rows], last), rows))
            flow = best.images
        return Adversarial(warp(x, flow), flow, remarks=best.remarks())

    def least_cosine(self) -> float:
        return least_cosine_averaging(self.eot * averaged_draws(MOMENTUM, self.steps))

    def cost(self, num_classes: int) -> Cost:
        """The cost of an image that is never misclassified. On a deterministic defense, one that is costs less."""
        gradients = self.eot * self.steps
        if self.keep == "last":
            return Cost(gradients, gradients)
        checks = self.steps if self.gradient == "blind" else 0
        return Cost(gradients + checks + self.eot, gradients)

    def describe(self) -> str:
        return f"{super().describe()}, {self.steps} steps, {self.loss} loss, {self.keep} flow"

    def unsuitable(self, defense: Defense) -> str | None:
        known, needed = defense.num_classes, FEWEST_CLASSES.get(self.loss, 2)
        if known is not None and known < needed:
            return f"the {self.loss} loss needs at least {needed} classes, not {known}; use loss: margin"
        return super().unsuitable(defense)

    def _descend(self, best: BestIterates, x: Tensor, objective: Objective, stops: bool) -> tuple[Tensor, Tensor]:
        """Takes all steps, and tries every flow on the defense. Where `stops`, misclassified images leave.

        Returns:
            The flows after the last step, which are not yet tried, and the rows of the images that have not left.
        """
        flow, rows = torch.zeros_like(best.images), torch.arange(len(x), device=x.device)
        adam = Adam.of(flow)
        for _ in range(self.steps):
            step = objective.step(warp(x[rows], flow), rows)
            best.learn(flow, rows, step)
            move, adam = adam.updated(self._gradient(x[rows], flow, step.grad), self.lr)
            flow = _settled(self.threat.project(flow + move))
            if stops and (left := waits.some_of(~best.misclassified[rows])) is not None:
                flow, adam, rows = flow[left], adam.take(left), rows[left]
                if not len(rows):
                    break
        return flow, rows

    def _gradient(self, x: Tensor, flow: Tensor, by_image: Tensor) -> Tensor:
        """The gradient of the objective by the flow, (M, H, W, 2), from that of the loss by the image, (M, C, H, W)."""
        flow = flow.detach().requires_grad_()
        with torch.enable_grad():
            value = self.smoothness * roughness(flow).sum() - (warp(x, flow) * by_image).sum()
            (grad,) = torch.autograd.grad(value, flow)
        return grad


def _settled(flow: Tensor) -> Tensor:
    """The flow (M, H, W, 2), rounded to the precision of pixel positions, as published.

    The published parameter is identity + flow, which is rounded. Where an image is flat the only gradient is that of
    TV, and Adam turns its rounding errors into whole steps. After five steps at a bound of 0.005, pixels agree with the
    published code to 1e-6 with this rounding, and to 0.01 without.
    """
    grid = identity_grid(flow).to(flow.dtype)
    return (grid + flow) - grid
