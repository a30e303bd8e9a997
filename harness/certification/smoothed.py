"""A smoothed defense: one that adds Gaussian noise to its input before it does anything else.

    forward(x) = from_noisy(x + sigma e),    e ~ N(0, I), drawn anew in each call

A majority of its votes is the smoothed classifier of Cohen et al. (2019), see `harness.certification.smoothing`; so a
certificate of the smoothed classifier, and an attack on it, are about one and the same defense.
"""

from __future__ import annotations

from torch import Tensor

from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal

NOISE = derive("randomized smoothing")
"""Makes the noise of smoothing differ from all other noise drawn from the same seeds."""


def smoothing_noise(seeds: Tensor, x: Tensor) -> Tensor:
    """Standard normal noise for each image, of the shape and type of x. seeds: (N,) int64."""
    return normal(fold(seeds.to(x.device), NOISE), x.shape[1:], x.dtype)


class SmoothedDefense(Defense):
    """Base of smoothed defenses. A subclass writes `classify`, and `purify_noisy` if it transforms the noisy image.

    Noisy images leave [0, 1], and are not clipped: whatever a subclass does to them is a part of its base classifier,
    which the certificate is about.

    Args:
        sigma: the standard deviation of the noise, on the [0, 1] scale of images.

    Raises:
        UserError: sigma is not positive.

    Source:
        Cohen, Rosenfeld and Kolter, 2019 (arXiv:1902.02918).

    Example:
        >>> import torch
        >>> class Brightness(SmoothedDefense):
        ...     def classify(self, x):
        ...         mean = x.mean((1, 2, 3))
        ...         return torch.stack([1 - mean, mean], dim=1)
        >>> Brightness(Quantity("0.25")).from_noisy(torch.ones(1, 1, 2, 2)).tolist()
        [[0.0, 1.0]]
    """

    stochastic = True

    def __init__(self, sigma: Quantity) -> None:
        super().__init__()
        if not sigma > 0:
            raise UserError(f"sigma is {sigma}", remedy="It must be positive, such as 0.25")
        self.sigma = sigma
        self.smoothing_sigma = float(sigma)

    def noised(self, x: Tensor) -> Tensor:
        """Images with this call's noise, (N, C, H, W); not clipped to [0, 1]."""
        return x + float(self.sigma) * smoothing_noise(self.seeds_for(x), x)

    def purify_noisy(self, x: Tensor) -> Tensor:
        """What `purify` does after the noise has been added; by default nothing."""
        return x

    def purify(self, x: Tensor) -> Tensor:
        return self.purify_noisy(self.noised(x))

    def purify_surrogate(self, x: Tensor) -> Tensor:
        """The draw itself, which is differentiable; a subclass with `purify_noisy` may approximate that."""
        return self.noised(x)

    def from_noisy(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) to which the noise has been added already."""
        return self.classify(self.purify_noisy(x))
