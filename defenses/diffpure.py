"""DiffPure: noise that drowns the perturbation, then a diffusion model that removes the noise (Nie et al. 2022).

    x(t*) = sqrt(alpha_{t*}) (2 x - 1) + sigma_{t*} eps,    x(t*) -> x(0),    purify(x) = clamp((x(0) + 1) / 2, 0, 1)

The reverse diffusion is the reverse SDE, the probability-flow ODE or DDPM's sampler, see `defenses.diffusion.reverse`;
any classifier can follow it. The gradient of `purify` is exact, including the clamp's. It needs the memory of one
step's graph and of one image per step, and uses more where it is given more, see `defenses.diffusion.step_gradient`.
`purify_adjoint` has an approximate gradient of the kind that the paper attacked with (its Sec. 3.3), and BPDA
differentiates the identity.

Three things differ from the authors' code. Theirs adds the noise of the discrete diffusion, and this one adds that of
the continuous diffusion (alpha at t* = 0.1 is 0.8970 and 0.8963); theirs does not clamp; and its adjoint steps back by
plain Euler steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from defenses.diffusion.build import denoiser_without_class
from defenses.diffusion.denoiser import Denoiser
from defenses.diffusion.reverse import (
    Ancestral,
    EulerMaruyama,
    Solver,
    Variance,
    continuous_times,
    denoised_by_adjoint,
    discrete_times,
)
from defenses.diffusion.schedule import ContinuousVP, Schedule, discrete_vp
from defenses.purification.purifier import FORWARD, SamplerPurifier
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense
from harness.weights import Checkpoint


class DiffPure(SamplerPurifier):
    """Purification by a diffusion model in front of any classifier. It is random at every call, with every solver.

    Args:
        weights: an unconditional diffusion network, or a class-conditional one that was also trained without a class.
            In Python also its name.
        classifier: the defense that classifies the purified image, an entry of its own; in Python also an instance.
        network: the diffusion network's type and arguments, where its card does not give them.
        t_star: how much noise, a time in (0, 1]: on CIFAR-10 0.1 against Linf (8/255), 0.075 against L2 (0.5), and
            0.125 against unseen threats (RDC, Table 2).
        solver: "sde", "ode" or "ddpm".
        dt: the length of a step; there are t_star / dt steps.
        rounds: how often noise is added and removed.
        variance: of the noise of "ddpm": "beta" (the default there) or the smaller one of the "posterior".
        chunk: images purified at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: t_star or dt out of range, a number that must be positive and is not, `variance` without "ddpm", or a
            network that needs a class.
    """

    sampler: Solver

    def __init__(
        self,
        weights: Checkpoint,
        classifier: InnerDefense,
        *,
        network: dict[str, Any] | None = None,
        t_star: Quantity = Quantity("0.1"),  # noqa: B008
        solver: Literal["sde", "ode", "ddpm"] = "sde",
        dt: Quantity = Quantity("1e-3"),  # noqa: B008
        rounds: int = 1,
        variance: Variance | None = None,
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        if variance is not None and solver != "ddpm":
            raise UserError(
                f"variance is {variance}, solver {solver}", remedy="Leave it out: only the solver ddpm takes it"
            )
        process = discrete_vp() if solver == "ddpm" else ContinuousVP()
        denoiser = denoiser_without_class(weights, network, process)
        super().__init__(
            classifier,
            _solver(denoiser, process, solver, t_star, dt, variance or "beta"),
            rounds=rounds,
            chunk=chunk,
            graph_memory=graph_memory,
        )

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Defense], dict[str, Any]]:
        """Fewer steps, as `caps` allows, over the same time."""
        return super().reduced({**arguments, "dt": Quantity(float(arguments["t_star"]) / cls.caps["steps"])})

    def purify_adjoint(self, x: Tensor) -> Tensor:
        """The values of `purify`, to the bit, with the adjoint gradient; see `defenses.diffusion.step_gradient`."""
        return self.in_chunks(x, self._moved_by_adjoint)

    def _moved_by_adjoint(self, x: Tensor, seeds: Tensor, allowed: float) -> Tensor:
        for draw in self.draws(x, seeds):
            x = denoised_by_adjoint(self.sampler, self.sampler.noised(x, draw(FORWARD)), draw)
        return x


def _solver(
    denoiser: Denoiser, process: ContinuousVP | Schedule, kind: str, t_star: float, dt: float, variance: Variance
) -> Solver:
    if isinstance(process, Schedule):
        return Ancestral(denoiser, process, discrete_times(t_star, dt, len(process)), variance)
    return EulerMaruyama(denoiser, process, continuous_times(t_star, dt), noise=kind == "sde")
