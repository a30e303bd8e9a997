"""Perceptual projected gradient descent (PPGD; Laidlaw, Singla & Feizi, 2021, arXiv:2006.12655, Sec. 4).

    x_{i+1} = project(x_i + s_i u_i / || J u_i ||_2),    (J^T J) u_i = g_i,    s_i = step_size 0.1^(i / steps)

g_i is the gradient of the loss, J the Jacobian at x_i of what a network sees, phi of `harness.threats.lpips`. To first
order a step u changes the LPIPS distance by || J u ||_2, and of all steps that change it equally this one raises the
loss most. A few conjugate gradients solve for u_i; they need products with J and J^T alone, which are of the perceptual
network and cost the defense nothing. `project` draws the image back along the segment to the clean one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks.common.gradient_attack import BestIterates, GradientAttack, Objective, column
from attacks.common.losses import LOSSES, LossName
from harness.errors import UserError, one_line
from harness.gradients import Gradient
from harness.guard.doubt import least_cosine_averaging
from harness.process import waits
from harness.process.pull_back import pull_back
from harness.quantity import Quantity
from harness.threat import L2
from harness.threats.lpips import BATCH, LPIPS, Perceiving, Perception
from harness.weights import Checkpoint
from harness.weights.checkpoint import split_key
from harness.weights.normalization import Normalization, stated_by

DECAY = 0.1
"""By which steps shrink from the first to the last."""

LEAST = 1e-3
"""Least change of what is seen per length in L2 that a step is scaled by: a step that is not seen has no scale."""

_STEEPEST = L2(Quantity(1)).steepest


class PPGD(GradientAttack):
    """PGD in the LPIPS distance: images may change by as much as a network does not see.

    The network is a checkpoint: that of the defense (the paper's self-bounded threat model) or any other. Its
    architecture must have `activations`, as `pat_resnet` does.

    Args:
        weights: the checkpoint of the network that sees images.
        eps: the LPIPS distance, see `harness.threats.lpips`.
        network: its architecture, `{type: ..., ...}`; left out, the one on the checkpoint's card.
        steps: gradient steps of one restart.
        step_size: the distance that the first step aims at; eps unless given.
        conjugate: conjugate gradients for each step.
        loss: what is maximised, one of the untargeted losses of `attacks.common.losses`.
        restarts: independent random starts; later ones attack only images that are not yet misclassified, where
            `early_stop` applies.
        random_start: start at the image under faint noise instead of at the image itself.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.
        early_stop: let images leave the batch once they are misclassified (deterministic defenses only).

    Raises:
        ValueError: a bound, a count, a name or a combination of arguments is invalid.

    Example:
        `{type: ppgd, weights: digits-pat, eps: 0.5}` in a suite.
    """

    threat: LPIPS
    version = 1
    method = "ppgd"

    def __init__(
        self,
        weights: Checkpoint,
        eps: Quantity,
        network: dict[str, Any] | None = None,
        steps: int = 40,
        step_size: Quantity | None = None,
        conjugate: int = 5,
        loss: LossName = "margin",
        restarts: int = 1,
        random_start: bool = True,
        gradient: Gradient = "exact",
        eot: int = 1,
        early_stop: bool = True,
    ) -> None:
        eps, checkpoint = Quantity(eps), Checkpoint.find(weights)
        if eps <= 0:
            raise ValueError(f"eps is {eps}; it must be positive")
        if step_size is not None and step_size <= 0:
            raise ValueError(f"step_size is {step_size}; it must be positive")
        if conjugate < 1:
            raise ValueError(f"conjugate is {conjugate}; it must be at least 1")
        if loss not in LOSSES:
            raise ValueError(f"loss is '{loss}'; valid losses: {', '.join(LOSSES)}")
        perception = Perception(_name(checkpoint), partial(Sight, checkpoint, network))
        super().__init__(
            LPIPS(eps, perception),
            steps=steps,
            loss=loss,
            restarts=restarts,
            random_start=random_start,
            early_stop=early_stop,
            gradient=gradient,
            eot=eot,
        )
        self.step_size = float(eps if step_size is None else step_size)
        self.conjugate = conjugate

    def least_cosine(self) -> float:
        return least_cosine_averaging(self.eot)

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        """Why the network cannot see images of `shape`, (C, H, W), or None."""
        try:
            with torch.no_grad():
                self.threat.perception.features(torch.zeros(1, *shape))
        except RuntimeError as error:
            return f"the network of '{self.threat.perception.name}' cannot see images of {shape}: {one_line(error)}"
        return None

    def run_restart(
        self, best: BestIterates, x: Tensor, start: Tensor, rows: Tensor, objective: Objective, stops: bool
    ) -> None:
        images = start
        for number in range(self.steps):
            step = objective.step(images, rows)
            best.learn(images, rows, step)
            pairs = zip(images.split(BATCH), step.grad.to(images).split(BATCH), strict=True)
            moves = [natural_step(self.threat.perception.features, *pair, self.conjugate) for pair in pairs]
            size = self.step_size * DECAY ** (number / self.steps)
            images = self.threat.project(x[rows], images + size * torch.cat(moves))
            if stops and (left := waits.some_of(~best.misclassified[rows])) is not None:
                images, rows = images[left], rows[left]
                if not len(rows):
                    return
        best.update(images, rows, objective.logits(images, rows))


class Sight(nn.Module):
    """The activations of a checkpoint's network on images in [0, 1], which it normalises as the network wants them.

    Raises:
        UserError: the network does not show its activations.
    """

    def __init__(self, checkpoint: Checkpoint, spec: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.network = checkpoint.network(spec)
        if not callable(getattr(self.network, "activations", None)):
            raise UserError(
                f"{type(self.network).__name__} of '{checkpoint.ref}' does not show its activations",
                remedy="Name a network with `activations`, such as the pat_resnet of digits-pat",
            )
        self.normalization: Normalization | None = stated_by(self.network) or checkpoint.normalization

    def activations(self, x: Tensor) -> list[Tensor]:
        """Of images (N, C, H, W), (N, C_l, H_l, W_l) each."""
        return cast(Perceiving, self.network).activations(self.normalization(x) if self.normalization else x)


def natural_step(phi: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, count: int) -> Tensor:
    """The step of length 1 in || J u ||_2 along u ~ (J^T J)^-1 grad, after `count` conjugate gradients (N, C, H, W).

    Args:
        phi: images (N, C, H, W) to features (N, D), each of its own image alone; J is its Jacobian at x.
        grad: (N, C, H, W); where it is 0, so is the step. Where none of it is seen, the step is along it.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        there = phi(x)
        weights = torch.zeros_like(there, requires_grad=True)
        (pulled,) = pull_back([there], [x], [weights], create_graph=True)  # J^T w, whose derivative by w is J^T

    def transposed(v: Tensor) -> Tensor:
        return pull_back([there], [x], [v], retain_graph=True)[0]

    def seen(u: Tensor) -> Tensor:
        return pull_back([pulled], [weights], [u], retain_graph=True)[0]

    residual = _STEEPEST(grad)  # the scale of the gradient is lost in the end anyway
    found, along, left = torch.zeros_like(x), residual, _inner(residual, residual)
    for _ in range(count):
        image = transposed(seen(along))
        share = _quotient(left, _inner(along, image))
        found, residual = found + column(share, x) * along, residual - column(share, x) * image
        before, left = left, _inner(residual, residual)
        along = residual + column(_quotient(left, before), x) * along
    found = torch.where(column(found.flatten(1).any(1), x), _STEEPEST(found), _STEEPEST(grad))
    return found / column(seen(found).norm(dim=1).clamp(min=LEAST), x)


def _quotient(one: Tensor, other: Tensor) -> Tensor:
    """one / other, (N,), and 0 where other is 0: an image that is solved, or a direction that is not seen."""
    positive = other > torch.finfo(other.dtype).tiny
    return torch.where(positive, one / torch.where(positive, other, 1), 0)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """Of each image, (N,)."""
    return (one * other).flatten(1).sum(1)


def _name(checkpoint: Checkpoint) -> str:
    """The checkpoint's name, or that of its file, in one word."""
    return "_".join(PurePath(split_key(checkpoint.ref)[0]).stem.split())
