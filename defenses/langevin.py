"""Energy-based purification: Langevin dynamics on the energy of a classifier (Hill et al. 2021; Grathwohl et al. 2020).

    x_{k+1} = x_k - tau^2 / (2 T) grad E(x_k) + tau z_k,    E(x) = -logsumexp_y logits_y(x),    z_k ~ N(0, I)

from x_0 = 2 image - 1. Many steps sample from exp(-E / T), whatever the start; a chain of some length forgets an
adversarial perturbation, and not yet the image. "Stochastic security" (arXiv:2005.13525, Eq. 2) purifies so with an
energy-based model of its own, T = 1, tau = 0.01 and 1,500 steps, and averages the logits of 150 chains. Here the energy
is that of a JEM (arXiv:1912.03263), which is a classifier as well, and the average is taken by the suite's votes. JEMs
are trained with chains of step 1 and noise 0.01, which is tau = 0.01 at T = 5e-5.

The gradient of `purify` is exact, and contains the second derivative of the energy. It takes the memory of one step.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from defenses.diffusion.chunked_gradient import GRADIENT_COST
from defenses.diffusion.step_gradient import State, stepwise
from defenses.jem import JEM
from defenses.purification.inner_gradient import inner_gradient
from defenses.purification.purifier import Noise, Purifier, at_least_one, positive
from harness.defense import Defense
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense
from harness.weights import Checkpoint


class Langevin(Purifier):
    """Langevin steps to lower energy of a JEM, in front of any classifier, which may be the same JEM.

    Args:
        weights: a classifier that was trained as an energy-based model; in Python also its name.
        classifier: the defense that classifies the purified image, an entry of its own; in Python also an instance.
        network: the energy's architecture, `{type: jem_wrn, ...}`, where its card does not give it.
        steps: how many Langevin steps are taken.
        step_size: tau, the standard deviation of a step's noise, on images in [-1, 1].
        temperature: T. Lower ones follow the energy more, and the noise less.
        chunk: images purified at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: a number out of its range, or weights that do not fit the network.

    Source:
        Hill, Mitchell and Zhu, 2021 (arXiv:2005.13525), Eq. 2.

    Example:
        >>> import torch
        >>> defense = Langevin("digits-jem", JEM("digits-jem"), steps=3)
        >>> defense(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        weights: Checkpoint,
        classifier: InnerDefense,
        *,
        network: dict[str, Any] | None = None,
        steps: int = 20,
        step_size: Quantity = Quantity("0.01"),  # noqa: B008
        temperature: Quantity = Quantity("5e-5"),  # noqa: B008
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__(classifier, chunk=chunk, graph_memory=graph_memory)
        at_least_one(steps=steps)
        positive(step_size=step_size, temperature=temperature)
        self.model = JEM(weights, network)
        self.steps, self.step_size, self.temperature = steps, float(step_size), float(temperature)

    def moved(self, x: Tensor, seeds: Tensor, allowed: float) -> Tensor:
        draw, rate = Noise(seeds, x), self.step_size**2 / (2 * self.temperature)

        def step(k: int, x: Tensor) -> State:
            return (x - rate * inner_gradient(self._energy, x) + self.step_size * draw(k),)

        return stepwise(step, self.steps, (x,), allowed=allowed)[0]

    def energy(self, x: Tensor) -> Tensor:
        """E(x), up to a constant -log p(x): (N, C, H, W) in [0, 1] -> (N,)."""
        return self.model.energy(x)

    def evaluations(self) -> float:
        return GRADIENT_COST * self.steps

    def coarser(self, steps: int) -> Defense:
        """Fewer steps of the same dynamics: each as long as several, with the noise of all of them."""
        count = min(steps, self.steps)
        return self.sharing(steps=count, step_size=self.step_size * math.sqrt(self.steps / count))

    def _energy(self, x: Tensor) -> Tensor:
        """E of images in [-1, 1], (N,)."""
        return self.model.energy((x + 1) / 2)
