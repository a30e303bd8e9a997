"""sigma-zero (Cinà et al., 2025): the fewest values to change, by a smooth count and a threshold that adapts.

    l(d)     =  sum_i d_i^2 / (d_i^2 + sigma)                        the number of values that are not 0, made smooth
    g_k      =  grad [ max(gap_k, 0) + l(d_k) / D ]                  gap: of the true class to its strongest rival
    d_{k+1}  =  d_k - a_k Adam(g_k / ||g_k||_inf)                    x + d onto [0, 1]; then 0 where |d_i| < tau_k
    tau_k+1  =  tau_k + t a_k   where x + d_k is misclassified,      and tau_k - t a_k where it is not

D is the number of values, and a_k falls from `step_size` to a tenth of it along a cosine. Where an image is
misclassified the gap is out of the gradient, and the attack only looks for fewer values. As in the authors' program the
steps are Adam's; unlike there, the gap's gradient has a largest entry of 1 before the count is added: the count does
not weigh more where logits are small.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.gradient_attack import Objective, column
from attacks.common.minimum_norm import MinimumNormAttack, Nearest, annealed
from harness.gradients import Gradient
from harness.quantity import Quantity
from harness.threat import L0

DECAYS, FLOOR = (0.9, 0.999), 1e-8
"""Of Adam's averages; and what it adds to the root of the second."""


class SigmaZero(MinimumNormAttack):
    """The fewest values of an image to change, by sigma-zero; for deterministic defenses.

    Args:
        eps: the largest number of values that counts, see `harness.threat.L0`; a whole number.
        steps: gradient steps; the paper takes up to 1000.
        step_size: of the first step.
        sigma: how closely the smooth count follows the true one.
        threshold: the first tau: smaller changes are undone.
        threshold_step: how much the threshold moves in a step of size 1, t above.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a count or a size is out of range, or eps is not whole.

    Source:
        Cinà, Villani, Pintor, Schönherr, Biggio and Pelillo, 2025 (arXiv:2402.01879), Algorithm 1.

    Example:
        >>> from harness.defense import Defense
        >>> from harness.target import Target
        >>> class Brightness(Defense):
        ...     def classify(self, x):
        ...         return torch.stack([2 - x.sum((1, 2, 3)), x.sum((1, 2, 3)) - 2], dim=1)
        >>> x, y = torch.tensor([0.0, 0.25, 0.5, 0.75]).view(1, 1, 2, 2), torch.tensor([0])
        >>> attack = SigmaZero(Quantity(4))
        >>> found = attack.perturb(Target(Brightness(), x, torch.tensor([0])), x, y).images
        >>> attack.threat.size(x, found).item()  # from 1.5 to more than 2, by one value
        1.0
    """

    independent = True
    method = "sigma-zero"

    def __init__(
        self,
        eps: Quantity,
        steps: int = 200,
        step_size: float = 1.0,
        sigma: float = 1e-3,
        threshold: float = 0.3,
        threshold_step: float = 0.01,
        gradient: Gradient = "exact",
        eot: int = 1,
    ) -> None:
        if eps < 1 or float(eps) != int(eps):
            raise ValueError(f"eps is {Quantity(eps)}; it must be a whole number of values, at least 1")
        super().__init__(L0(Quantity(eps)), steps=steps, loss="margin", gradient=gradient, eot=eot)
        for name, size in (("step_size", step_size), ("sigma", sigma), ("threshold_step", threshold_step)):
            if size <= 0:
                raise ValueError(f"{name} is {size}; it must be positive")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must lie in [0, 1]")
        self.step_size, self.sigma = step_size, sigma
        self.threshold, self.threshold_step = threshold, threshold_step

    def run(self, found: Nearest, x: Tensor, objective: Objective) -> None:
        rows, delta = torch.arange(len(x), device=x.device), torch.zeros_like(x)
        threshold = torch.full_like(found.distance, self.threshold)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for k, size in enumerate(annealed(self.step_size, self.step_size / 10, self.steps), 1):
            images = (x + delta).clamp(0, 1).where(delta != 0, x)  # what was not changed stays so to the bit
            step = objective.step(images, rows)
            wrong = found.see(images, step)
            gap = -_scaled(step.grad) * column(~wrong, x)
            gradient = _scaled(gap + smooth_count_gradient(delta, self.sigma) / x[0].numel())
            first = DECAYS[0] * first + (1 - DECAYS[0]) * gradient
            second = DECAYS[1] * second + (1 - DECAYS[1]) * gradient.square()
            mean, spread = first / (1 - DECAYS[0] ** k), (second / (1 - DECAYS[1] ** k)).sqrt()
            delta = (x + delta - size * mean / (spread + FLOOR)).clamp(0, 1) - x
            change = torch.where(wrong, self.threshold_step * size, -self.threshold_step * size)
            threshold = (threshold + change).clamp(0, 1)
            delta = delta * (delta.abs() >= column(threshold, x))
        images = (x + delta).clamp(0, 1).where(delta != 0, x)
        found.keep(images, objective.logits(images, rows))


def smooth_count(delta: Tensor, sigma: float) -> Tensor:
    """l(d) of the module's head: (N, C, H, W) -> (N,)."""
    square = delta.square()
    return (square / (square + sigma)).flatten(1).sum(1)


def smooth_count_gradient(delta: Tensor, sigma: float) -> Tensor:
    """The gradient of `smooth_count`, (N, C, H, W)."""
    return 2 * sigma * delta / (delta.square() + sigma).square()


def _scaled(gradient: Tensor) -> Tensor:
    """Gradients (N, C, H, W) with a largest entry of 1; zero where they are zero."""
    largest = gradient.abs().flatten(1).amax(1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / column(largest, gradient)
