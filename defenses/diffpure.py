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
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import without_class
from defenses.diffusion.denoiser import Denoiser, adapted
from defenses.diffusion.graph_memory import allowance, check_graph_memory
from defenses.diffusion.reverse import (
    Ancestral,
    EulerMaruyama,
    Solver,
    Variance,
    continuous_times,
    denoised,
    discrete_times,
)
from defenses.diffusion.schedule import ContinuousVP, Schedule, discrete_vp
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal
from harness.suite.nested import InnerDefense, built
from harness.weights import Checkpoint

PURIFY = derive("diffusion purification")
"""Makes the noise of `purify` differ from all other noise drawn from the same seeds."""

FORWARD = -1
"""The step whose noise is that of x(t*)."""


class DiffPure(Defense):
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

    stochastic = True
    backward_cost = 2.2
    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk", "graph_memory")

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
        super().__init__()
        for name, number in {"rounds": rounds, "chunk": chunk}.items():
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}", remedy="It must be at least 1")
        check_graph_memory(graph_memory)
        if variance is not None and solver != "ddpm":
            raise UserError(
                f"variance is {variance}, solver {solver}", remedy="Leave it out: only the solver ddpm takes it"
            )
        checkpoint = Checkpoint.find(weights)
        process = discrete_vp() if solver == "ddpm" else ContinuousVP()
        self.denoiser = adapted(without_class(checkpoint, network), process)
        self.solver = _solver(self.denoiser, process, solver, t_star, dt, variance or "beta")
        self.classifier: Defense = built(classifier)
        self.num_classes = self.classifier.num_classes
        self.rounds, self.chunk, self.graph_memory = rounds, chunk, graph_memory

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Defense], dict[str, Any]]:
        """Fewer steps, as `caps` allows, over the same time."""
        return super().reduced({**arguments, "dt": Quantity(float(arguments["t_star"]) / cls.caps["steps"])})

    def purify(self, x: Tensor) -> Tensor:
        return self._purified(x, approximate=False)

    def purify_adjoint(self, x: Tensor) -> Tensor:
        """The values of `purify`, to the bit, with the adjoint gradient; see `defenses.diffusion.step_gradient`."""
        return self._purified(x, approximate=True)

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def cost(self) -> float:
        """Evaluations of the diffusion network, one per step, plus the classifier's; both count alike."""
        return self.rounds * len(self.solver) + self.classifier.cost()

    def _purified(self, x: Tensor, *, approximate: bool) -> Tensor:
        seeds, chunk = fold(self.seeds_for(x).to(x.device), PURIFY), self.chunk or len(x)
        parts = list(zip((2 * x - 1).split(chunk), seeds.split(chunk), strict=True))
        allowed = allowance(x, self.graph_memory) / (len(parts) * self.rounds)
        images = torch.cat([self._rounds(part, own, allowed, approximate=approximate) for part, own in parts])
        return ((images + 1) / 2).clamp(0, 1)

    def _rounds(self, x: Tensor, seeds: Tensor, allowed: float, *, approximate: bool) -> Tensor:
        for number in range(self.rounds):
            draw = _Noise(fold(seeds, number), x)
            start = self.solver.noised(x, draw(FORWARD))
            x = denoised(self.solver, start, draw, approximate=approximate, allowed=allowed)
        return x


class _Noise:
    """Standard normal noise of a round, (N, C, H, W) like x, a pure function of seeds (N,) and the step."""

    def __init__(self, seeds: Tensor, x: Tensor) -> None:
        self.seeds, self.shape, self.dtype = seeds, x.shape[1:], x.dtype

    def __call__(self, step: int) -> Tensor:
        return normal(fold(self.seeds, step), self.shape, self.dtype)


def _solver(
    denoiser: Denoiser, process: ContinuousVP | Schedule, kind: str, t_star: float, dt: float, variance: Variance
) -> Solver:
    if isinstance(process, Schedule):
        return Ancestral(denoiser, process, discrete_times(t_star, dt, len(process)), variance)
    return EulerMaruyama(denoiser, process, continuous_times(t_star, dt), noise=kind == "sde")
