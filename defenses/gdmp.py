"""GDMP: DDPM purification that is guided back to the image it came from (Wang et al. 2022, arXiv:2205.14969).

    x(t*) = sqrt(alpha_{t*}) x + sigma_{t*} eps
    x_{i+1} = mean(x_i) - v_i s_i grad_{x_i} D(x_i, y_i) + sqrt(v_i) z_i,
    y_i = sqrt(alpha_{t_i}) x~ + sigma_{t_i} n_i,    s_i = guidance sigma_{t_i} / sqrt(alpha_{t_i})

with mean and variance v_i of DDPM's sampler (`defenses.diffusion.reverse`), and x~ = 2 image - 1 the image under attack
on the scale of the model, noised anew at each step. There are several rounds; every one starts from what the last
returned, and is guided by the same x~. Guidance allows more noise, or more rounds, before the image becomes another.

    D(x, y) = || x - y ||^2,  of gradient 2 (x - y)    "mse"
    D(x, y) = -SSIM(x, y)                              "ssim", see `defenses.purification.ssim`

The gradient of `purify` is exact: it takes both paths, by x(t*) and by all y_i, and for SSIM second derivatives. Each
step keeps two images for it, x_i and x~.

The authors' code averages squares over a batch of 100 CIFAR-10 images, with a scale of 60,000 over a third of the
attack's eps; in the units of this module, which are those of one image, that is `guidance` 9.3. It also clips the
estimate of the clean image at each step, and guides the step to t = 0, which has no variance here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import denoiser_without_class
from defenses.diffusion.reverse import Ancestral, Variance, discrete_times
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.step_gradient import State, stepwise
from defenses.purification.inner_gradient import inner_gradient
from defenses.purification.purifier import FORWARD, Noise, SamplerPurifier
from defenses.purification.ssim import ssim
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense
from harness.weights import Checkpoint

Distance = Literal["mse", "ssim"]

GUIDE = -2
"""The step whose noise is that of y_0; y_i has that of GUIDE - i."""


class GDMP(SamplerPurifier):
    """Purification by DDPM with guidance to the image under attack, in front of any classifier.

    Args:
        weights: an unconditional diffusion network, or a class-conditional one that was also trained without a class.
            In Python also its name.
        classifier: the defense that classifies the purified image, an entry of its own; in Python also an instance.
        network: the diffusion network's type and arguments, where its card does not give them.
        t_star: how much noise, a time in (0, 1], in thousandths.
        dt: the length of a step, in thousandths; there are t_star / dt steps.
        rounds: how often noise is added and removed.
        distance: what guidance lowers: "mse", or "ssim".
        guidance: how strong guidance is; 0 is none.
        variance: of DDPM's noise: "beta", or the smaller one of the "posterior".
        chunk: images purified at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: a number out of its range, or a network that needs a class.

    Source:
        Wang, Lyu, Lin, Dai and Fu, 2022 (arXiv:2205.14969), Algorithm 1. The defaults are theirs for CIFAR-10.

    Example:
        >>> from defenses.undefended import Undefended
        >>> defense = GDMP("digits-ncsnpp", Undefended("digits-cnn"), t_star=0.1, dt=0.05, rounds=2)
        >>> defense(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    sampler: Ancestral

    def __init__(
        self,
        weights: Checkpoint,
        classifier: InnerDefense,
        *,
        network: dict[str, Any] | None = None,
        t_star: Quantity = Quantity("0.036"),  # noqa: B008
        dt: Quantity = Quantity("1e-3"),  # noqa: B008
        rounds: int = 4,
        distance: Distance = "mse",
        guidance: float = 9.3,
        variance: Variance = "beta",
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        if not guidance >= 0:
            raise UserError(f"guidance is {guidance}", remedy="It must not be negative; 0 is none")
        process = discrete_vp()
        denoiser = denoiser_without_class(weights, network, process)
        times = discrete_times(t_star, dt, len(process))
        super().__init__(
            classifier,
            Ancestral(denoiser, process, times, variance),
            rounds=rounds,
            chunk=chunk,
            graph_memory=graph_memory,
        )
        self.distance, self.guidance = distance, guidance

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Defense], dict[str, Any]]:
        """One step, since steps must be whole thousandths."""
        return super().reduced({**arguments, "dt": arguments["t_star"]})

    def moved(self, x: Tensor, seeds: Tensor, allowed: float) -> Tensor:
        draws, steps = self.draws(x, seeds), len(self.sampler)

        def step(i: int, x: Tensor, original: Tensor) -> State:
            number, k = divmod(i, steps)
            if k == 0:  # a round begins
                x = self.sampler.noised(x, draws[number](FORWARD))
            return self._guided(k, x, original, draws[number]), original

        return stepwise(step, self.rounds * steps, (x, x), allowed=allowed)[0]

    def _guided(self, i: int, x: Tensor, original: Tensor, draw: Noise) -> Tensor:
        """x_{i+1} from x = x_i."""
        mean, spread = self.sampler.mean(i, x), self.sampler.spread(i)
        if not spread:
            return mean
        t = torch.tensor(self.sampler.times[i])
        signal, sigma = (float(find(t)) for find in (self.sampler.process.signal, self.sampler.process.sigma))
        reference = signal * original + sigma * draw(GUIDE - i)
        away = self.guidance * sigma / signal * self._gradient(x, reference)
        return mean - spread**2 * away + spread * draw(i)

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient of D(x, y) in x, (N, C, H, W)."""
        if self.distance == "mse":
            return 2 * (x - y)
        return inner_gradient(lambda x: -ssim(x, y), x)
