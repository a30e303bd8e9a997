"""Purification along a rectified flow (FlowPure, Collaert et al. 2025, arXiv:2505.13280, its stochastic form).

    z_s = (1 - s) x~ + s eps,    x~ = 2 image - 1,    s in [0, 1] the share of noise
    v(z, s) = E[eps - x~ | z_s = z],    dz/ds = v(z, s) from z_{s*} down to z_0
    purify(image) = clamp((z_0 + 1) / 2, 0, 1)

This is flow matching along straight lines (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003).
FlowPure trains a network for v, by Gaussian noise, or by attacks that it is to undo. Here v comes from any diffusion
network. Both processes add Gaussian noise, so that one noisy image is the other but for its scale: z_s / (1 - s) and
x_t / sqrt(alpha_t) agree where their levels do,

    s / (1 - s) = sigma_t / sqrt(alpha_t)    gives t,        x_t = sqrt(alpha_t) / (1 - s) z
    v(z, s) = eps - x^ = (eps_theta(x_t, t) - z) / (1 - s),  as x^ = (z - s eps_theta) / (1 - s)

The paths are those of the probability-flow ODE, on another clock: nearly straight ones near the image, which few steps
follow. An Euler step in s is a step of DDIM between the two levels (`defenses.ddim`); midpoint steps are of order 2.

Our s is 1 - t of FlowPure, whose steps may also add noise again (its eta), which these do not. The gradient of `purify`
is exact, in the memory of one step.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import denoiser_without_class
from defenses.diffusion.reverse import thinned
from defenses.diffusion.runge_kutta import TABLEAUS, solve
from defenses.diffusion.schedule import ContinuousVP
from defenses.diffusion.step_gradient import State
from defenses.purification.purifier import FORWARD, Noise, Purifier, at_least_one
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fold
from harness.suite.nested import InnerDefense
from harness.weights import Checkpoint


class RectifiedFlow(Purifier):
    """Noise, and the way back along the rectified flow of a diffusion model, in front of any classifier.

    Args:
        weights: an unconditional diffusion network, or a class-conditional one that was also trained without a class.
            In Python also its name.
        classifier: the defense that classifies the purified image, an entry of its own; in Python also an instance.
        network: the diffusion network's type and arguments, where its card does not give them.
        s_star: the share of noise that the flow starts from, between 0 and 1.
        solver: "euler" or "midpoint", with one or two evaluations per step.
        steps: how many steps of equal length lead from s* to 0.
        rounds: how often noise is added and removed.
        chunk: images purified at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: a number out of its range, or a network that needs a class.

    Source:
        Collaert, Rodriguez, Joos, Desmet and Rimmer, 2025 (arXiv:2505.13280).

    Example:
        >>> from defenses.undefended import Undefended
        >>> defense = RectifiedFlow("digits-ncsnpp", Undefended("digits-cnn"), steps=2)
        >>> defense(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        weights: Checkpoint,
        classifier: InnerDefense,
        *,
        network: dict[str, Any] | None = None,
        s_star: Quantity = Quantity("0.25"),  # noqa: B008
        solver: Literal["euler", "midpoint"] = "midpoint",
        steps: int = 5,
        rounds: int = 1,
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__(classifier, chunk=chunk, graph_memory=graph_memory)
        at_least_one(steps=steps, rounds=rounds)
        self.process = ContinuousVP()
        _check_share(s_star, self.process)
        self.denoiser = denoiser_without_class(weights, network, self.process)
        self.solver: Literal["euler", "midpoint"] = solver
        self.shares = [float(s_star) * (steps - i) / steps for i in range(steps + 1)]
        self.rounds = rounds

    def moved(self, x: Tensor, seeds: Tensor, allowed: float) -> Tensor:
        share = self.shares[0]
        for number in range(self.rounds):
            eps = Noise(fold(seeds, number), x)(FORWARD)
            start = (1 - share) * x + share * eps
            (x,) = solve(self.solver, self._slope, self.shares, (start,), allowed=allowed / self.rounds)
        return x

    def velocity(self, z: Tensor, s: float) -> Tensor:
        """v(z, s), (N, C, H, W). s: the share of noise, in (0, 1)."""
        level = torch.full((len(z),), s / (1 - s), dtype=torch.float64, device=z.device)
        t = self.process.time(level)
        scale = self.process.signal(t).to(z)[:, None, None, None] / (1 - s)
        return (self.denoiser.eps(scale * z, t.to(z.dtype)) - z) / (1 - s)

    def evaluations(self) -> float:
        return self.rounds * (len(self.shares) - 1) * len(TABLEAUS[self.solver].weights)

    def coarser(self, steps: int) -> Defense:
        """The same flow in fewer, longer steps."""
        return self.sharing(shares=thinned(self.shares, steps))

    def _slope(self, s: float, z: Tensor) -> State:
        return (self.velocity(z, s),)


def _check_share(s_star: Quantity, process: ContinuousVP) -> None:
    """Raises UserError if the diffusion has no time with this share of noise."""
    most = float(process.level(torch.tensor(1.0)))
    if not 0 < s_star <= most / (1 + most):
        raise UserError(
            f"s_star is {s_star}", remedy=f"It is the share of noise, above 0 and at most {most / (1 + most):.3f}"
        )
