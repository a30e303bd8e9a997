"""Likelihood maximisation (paper Sec. 3.4, Eq. 8, Algorithm 1): an image moves to where its diffusion loss is lower.

    m <- mu m - g / ||g||_1,    g = grad_x loss(x^)            (unconditional loss, fresh noise at every step)
    x^ <- clip(x^ + gamma d(m)),    gamma = eta / N            N times, from x^ = x and m = 0

    Linf    d(m) = sign(m)            L2    d(m) = m / ||m||_2            the norms are those of one image

clip keeps x^ in [0, 1] and within eta of x. For L2 the paper says only that eta becomes 0.5 "under the l2 norm"
(Appendix C.2). Our reading is that the ball and the step are those of L2, where the step is the steepest one of size
gamma in the norm of the ball, and that everything else stays.

The derivative. With H the Hessian of the loss, C = 0 for a pixel that was stopped by 0 or 1, else C = 1,

    d x^  <-  C (d x^ + gamma d'(m) dm),        dm  <-  mu dm - (g / ||g||_1)' H d x^

The clip to the ball counts as the identity: N steps of eta / N never leave the ball, and the clip corrects only their
rounding. In L2 this is the derivative that autograd computes here, with H times a vector in the memory of one chunk
(see `chunked_gradient`). In Linf the sign is flat almost everywhere: d' = 0, no second derivative is ever computed, and
the true derivative is that of BPDA with the identity, except at the stopped pixels. An attacker may replace d' in the
backward pass, and only there; no value depends on it (`sign_gradient`):

    zero               d' = 0                                the derivative itself
    straight_through   d' = 1 / s                            as if sign(m) were the nearest multiple of m
    tanh               d' = (tanh(m / (tau s)))'             as if the sign turned from -1 to 1 over a few tau s

s = ||m||_2^2 / ||m||_1 is held constant. m / s is the multiple of m nearest to sign(m) in least squares, and makes both
independent of the size of m, which the L1 norm leaves at one over the number of pixels.

The released code of the paper uses another optimizer, see `adam`, and random timesteps, see `random_times`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from defenses.diffusion.adam import LEARNING_RATE, maximize_by_adam
from defenses.diffusion.chunked_gradient import GRADIENT_COST
from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.narrowed import narrowed_purification, taken
from defenses.diffusion.random_times import Draws
from harness.defense import SignSurrogate
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import derive, fold
from harness.search import Narrowing
from harness.threat import LARGEST, NORMS, Pixels

Norm = Literal["Linf", "L2"]
SignGradient = Literal["zero", "straight_through", "tanh"]
Optimizer = Literal["momentum", "adam"]

BUDGETS: dict[Norm, Quantity] = {"Linf": Quantity("8/255"), "L2": Quantity("0.5")}
"""The paper's eta (Sec. 4.1, Appendix C.2)."""

PURIFY = derive("likelihood maximisation")
"""Makes the noise of `purify` differ from that of `classify`, which is drawn from the same seeds."""


@dataclass(frozen=True)
class LikelihoodMaximization:
    """Algorithm 1, lines 1 to 6, or Adam in its place; differentiable (once) in the images as described above.

    Args:
        loss: the diffusion loss, which is evaluated without a class.
        steps: N.
        norm, eta: the ball; left out, eta is the paper's, see `BUDGETS`.
        momentum: mu; 0 means none.
        sign_gradient: what replaces the derivative of the sign; only "zero" in L2, whose steps take no sign.
        sign_temperature: tau of "tanh".
        draws: draws the timesteps of each image and step from the loss's grid; left out, all are used.
        optimizer: "momentum" is Algorithm 1.
        learning_rate: lr of "adam"; left out, that of the released code.

    Raises:
        UserError: a number is out of its range, a surrogate is given where no sign is taken, or an argument belongs
            to the other optimizer.
    """

    loss: DiffusionLoss
    steps: int = 10
    norm: Norm = "Linf"
    eta: Quantity | None = None
    momentum: float = 1.0
    sign_gradient: SignGradient = "zero"
    sign_temperature: float = 1.0
    draws: Draws | None = None
    optimizer: Optimizer = "momentum"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}", remedy="Likelihood maximisation needs at least one step")
        if not 0 < self.ball.eps <= LARGEST[type(self.ball)]:
            raise UserError(
                f"eta is {self.ball.eps}",
                remedy=f"It must be a distance between images in [0, 1], such as {BUDGETS[self.norm]} in {self.norm}",
            )
        if self.momentum < 0:
            raise UserError(f"momentum is {self.momentum}", remedy="It must be 0, for none, or more")
        if self.optimizer == "adam" and self.momentum != 1:
            raise UserError(f"momentum is {self.momentum}, but Adam has its own", remedy="Leave one of them out")
        if self.optimizer == "momentum" and self.learning_rate is not None:
            raise UserError(
                f"learning_rate is {self.learning_rate}, but steps of Algorithm 1 have the length eta / N",
                remedy="Write `optimizer: adam`, or leave it out",
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"learning_rate is {self.learning_rate}", remedy="It must be positive")
        if self.optimizer == "adam" and self.sign_gradient != "zero":
            raise UserError(
                f"sign_gradient is '{self.sign_gradient}', but steps of Adam take no sign",
                remedy="Leave it out: their exact gradient contains the true second derivative",
            )
        if self.norm == "L2" and self.sign_gradient != "zero":
            raise UserError(
                f"sign_gradient is '{self.sign_gradient}', but steps in L2 take no sign",
                remedy="Leave it out: their exact gradient contains the true second derivative",
            )
        if self.sign_temperature <= 0:
            raise UserError(f"sign_temperature is {self.sign_temperature}", remedy="It must be positive")

    @property
    def ball(self) -> Pixels:
        return NORMS[self.norm](BUDGETS[self.norm] if self.eta is None else self.eta)

    @property
    def has_second_derivative(self) -> bool:
        """Whether the derivative of the move contains a second derivative of the loss; that of a sign, 0, does not."""
        return self.norm == "L2" or self.optimizer == "adam" or self.sign_gradient != "zero"

    def __call__(self, x: Tensor, seeds: Tensor, narrowing: Narrowing | None = None) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> the same, of lower loss.

        Args:
            seeds: the seeds of each image's noise, (N,) int64.
            narrowing: what may be left out, in a search.
        """
        nothing = torch.tensor([NO_CLASS])

        def gradient(images: Tensor, step: int) -> Tensor:
            own = fold(seeds, PURIFY, step)
            loss = self.loss if self.draws is None else replace(self.loss, grid=self.draws(own))
            if narrowing is not None:
                loss = narrowed_purification(loss, narrowing, own)
            images = images if self.has_second_derivative else images.detach()
            return loss.gradients(images, nothing, own, calls=self.steps).squeeze(1)

        if self.optimizer == "adam":
            rate = LEARNING_RATE if self.learning_rate is None else self.learning_rate
            return maximize_by_adam(x, gradient, ball=self.ball, steps=self.steps, learning_rate=rate)
        return maximize_likelihood(
            x, gradient, self.direction, ball=self.ball, steps=self.steps, momentum=self.momentum
        )

    def direction(self, m: Tensor) -> Tensor:
        """d(m), (N, C, H, W), with the derivative that `sign_gradient` names."""
        if self.norm == "L2":
            return _unit(m, 2)
        if self.sign_gradient == "zero":
            return m.detach().sign()
        surrogate = m / _scale(m)
        if self.sign_gradient == "tanh":
            surrogate = (surrogate / self.sign_temperature).tanh()
        return _with_derivative_of(surrogate, m.sign())

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        """What may replace the sign's derivative beside `sign_gradient` itself; nothing where no sign is taken."""
        if self.norm != "Linf" or self.optimizer != "momentum":
            return ()
        return tuple(kind for kind in get_args(SignSurrogate) if kind != self.sign_gradient)

    def cost(self) -> float:
        """Network evaluations per image: N gradients, at `GRADIENT_COST` for each term of the loss."""
        timesteps = len(self.loss.grid) if self.draws is None else self.draws.count
        return GRADIENT_COST * self.steps * timesteps * self.loss.samples

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        """Network evaluations per image in a search."""
        if self.draws is not None:
            return self.cost()
        timesteps = len(self.loss.grid)
        return self.cost() * taken(timesteps, narrowing.search.purify_timesteps) / timesteps


def maximize_likelihood(
    x: Tensor,
    gradient: Callable[[Tensor, int], Tensor],
    direction: Callable[[Tensor], Tensor],
    *,
    ball: Pixels,
    steps: int,
    momentum: float = 1.0,
) -> Tensor:
    """The loop of Algorithm 1.

    Args:
        x: images, (N, C, H, W) in [0, 1].
        gradient: (images, n) -> gradient of the unconditional diffusion loss at step n = 0..N-1, of the same shape.
        direction: m -> d(m), of the same shape, of norm 1 at most.
        ball: the ball of radius eta.
        steps: N.
        momentum: mu.

    Returns:
        (N, C, H, W) in [0, 1], within the ball around x; as differentiable in x as `gradient` and `direction` are.
    """
    gamma = float(ball.eps) / steps
    moved, m = x, torch.zeros_like(x)
    for n in range(steps):
        m = momentum * m - _unit(gradient(moved, n), 1)
        moved = (moved + gamma * direction(m)).clamp(0, 1)
        moved = _with_derivative_of(moved, ball.project(x, moved))
    return moved


def _unit(v: Tensor, order: int) -> Tensor:
    """v / ||v||, image by image; 0 stays 0, with a finite derivative."""
    norm = torch.linalg.vector_norm(v, order, dim=(1, 2, 3), keepdim=True)
    return v / torch.where(norm > 0, norm, 1)


def _scale(m: Tensor) -> Tensor:
    """s of each image, a constant, (N, 1, 1, 1); 1 where m is 0."""
    two, one = (torch.linalg.vector_norm(m.detach(), order, dim=(1, 2, 3), keepdim=True) for order in (2, 1))
    return torch.where(one > 0, two * (two / one), 1)


def _with_derivative_of(other: Tensor, value: Tensor) -> Tensor:
    """`value`, to the bit, with the derivative of `other`, which is finite."""
    return value.detach() + (other - other.detach())
