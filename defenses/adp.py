"""ADP: noise, and then steps along a score, as long as the curvature asks for (Yoon et al. 2021, arXiv:2106.06041).

    x_0 = clip(x + sigma eps),    x_{i+1} = clip(x_i + c_i a_i g_i),    g_i = score(x_i)
    a_i = clamp(lambda delta / (1 - r_i), 1e-5, 0.1),    r_i = <g_i, score(x_i + delta g_i)> / <g_i, g_i>
    c_i = c_{i-1} [a_i > stop],    c_{-1} = 1

1 - r_i is delta times the curvature of -log p along g_i, so that a step is the share lambda of Newton's. An image whose
step falls to `stop` has arrived where its likelihood has no direction left, and stays there; each image for itself, by
a product with 0 and not by leaving the loop. The images are on [0, 1], and clip keeps them there.

The authors' score is the gradient of an energy-based model trained by denoising score matching on many noise levels at
once, which is not told the level. Here it is the score of a diffusion network, told the level sigma of the noise that
was added, on the scale of [0, 1]:

    score(x) = (E[clean image | x] - x) / sigma^2 = -eps_theta(sqrt(alpha_t) (2 x - 1), t) / sigma

with t the time of the level 2 sigma (see `defenses.diffusion.noised`).

The gradient of `purify` is exact where it exists, which is almost everywhere: a_i is differentiated too, clip, clamp
and c_i are flat or the identity. It takes the memory of one step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from defenses.diffusion.build import denoiser_without_class
from defenses.diffusion.noised import denoised_once, refuse_out_of_reach
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.step_gradient import State, stepwise
from defenses.purification.purifier import FORWARD, Noise, Purifier, at_least_one, positive
from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense
from harness.weights import Checkpoint

DELTA = 1e-3
"""How far along the score the curvature is measured, in scores."""

SMALLEST, LARGEST = 1e-5, 0.1
"""Bounds of a step's length, in scores."""


class ADP(Purifier):
    """Noise, and steps of adaptive length along the score of a diffusion model, in front of any classifier.

    Args:
        weights: an unconditional diffusion network, or a class-conditional one that was also trained without a class.
            In Python also its name.
        classifier: the defense that classifies the purified image, an entry of its own; in Python also an instance.
        network: the diffusion network's type and arguments, where its card does not give them.
        sigma: the standard deviation of the noise, on the [0, 1] scale of images, and the level of the score.
        steps: how many steps are taken at most.
        rate: lambda, the share of Newton's step that is taken.
        stop: the step length, in scores, at which an image has arrived; 0 never stops.
        chunk: images purified at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: a number out of its range, or a network that needs a class.

    Source:
        Yoon, Hwang and Lee, 2021 (arXiv:2106.06041), Sec. 3. The defaults are theirs for CIFAR-10.

    Example:
        >>> import torch
        >>> from defenses.undefended import Undefended
        >>> defense = ADP("digits-ncsnpp", Undefended("digits-cnn"), steps=2)
        >>> defense(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        weights: Checkpoint,
        classifier: InnerDefense,
        *,
        network: dict[str, Any] | None = None,
        sigma: Quantity = Quantity("0.25"),  # noqa: B008
        steps: int = 10,
        rate: float = 0.05,
        stop: Quantity = Quantity("1e-3"),  # noqa: B008
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__(classifier, chunk=chunk, graph_memory=graph_memory)
        at_least_one(steps=steps)
        positive(sigma=sigma, rate=rate)
        if not stop >= 0:
            raise UserError(f"stop is {stop}", remedy="It must not be negative; 0 never stops")
        self.process = discrete_vp()
        refuse_out_of_reach(self.process, float(sigma))
        self.denoiser = denoiser_without_class(weights, network, self.process)
        self.sigma, self.steps, self.rate, self.stop = float(sigma), steps, rate, float(stop)

    def moved(self, x: Tensor, seeds: Tensor, allowed: float) -> Tensor:
        def step(i: int, x: Tensor, going: Tensor) -> State:
            direction = self.score(x)
            length = self._length(x, direction)
            going = going * (length.detach() > self.stop)
            return (x + going * length * direction).clamp(0, 1), going

        image = (x + 1) / 2
        noisy = (image + self.sigma * Noise(seeds, x)(FORWARD)).clamp(0, 1)
        going = x.new_ones(len(x), 1, 1, 1)
        return 2 * stepwise(step, self.steps, (noisy, going), allowed=allowed)[0] - 1

    def score(self, x: Tensor) -> Tensor:
        """grad log p of images with noise of sigma, on the scale of [0, 1]: (N, C, H, W) -> the same."""
        return (denoised_once(self.denoiser, self.process, x, self.sigma) - x) / self.sigma**2

    def evaluations(self) -> float:
        return 2 * self.steps

    def _length(self, x: Tensor, direction: Tensor) -> Tensor:
        """a, (N, 1, 1, 1), positive."""
        ahead = self.score(x + DELTA * direction)
        dims = (1, 2, 3)
        squared = direction.square().sum(dims, keepdim=True)
        straight = (direction * ahead).sum(dims, keepdim=True) / squared
        return (self.rate * DELTA / (1 - straight)).clamp(SMALLEST, LARGEST)
