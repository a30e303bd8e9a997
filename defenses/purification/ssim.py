"""Structural similarity of two images (Wang et al. 2004, "Image quality assessment", Sec. III-B and Eq. 13).

    SSIM(x, y) = mean over windows of  (2 mu_x mu_y + C1) (2 sigma_xy + C2)
                                       / ((mu_x^2 + mu_y^2 + C1) (sigma_x^2 + sigma_y^2 + C2))

with means mu, variances sigma^2 and covariance sigma_xy under Gaussian weights of 11 x 11 pixels and standard deviation
1.5, C1 = (0.01 L)^2, C2 = (0.03 L)^2, and L = 2, the range of images in [-1, 1]. Windows lie inside the image; one that
is smaller than 11 pixels has windows as large as an odd number of its pixels allows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, DEVIATION, RANGE = 11, 1.5, 2.0


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The mean over windows and channels, (N,), at most 1. x and y: images (N, C, H, W) in [-1, 1], or noisy ones.

    Example:
        >>> x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
        >>> round(float(ssim(x, x)), 6), bool(ssim(x, x.flip(3)) < 1)
        (1.0, True)
    """
    weights = _weights(x)
    first, second = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, weights, groups=values.shape[1])

    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2
    covariance = mean(x * y) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + first) / (mu_x**2 + mu_y**2 + first)
    structure = (2 * covariance + second) / (var_x + var_y + second)
    return (luminance * structure).mean((1, 2, 3))


def _weights(x: Tensor) -> Tensor:
    """One Gaussian window for each channel, (C, 1, h, w), that sums to 1."""
    sides = []
    for length in x.shape[-2:]:
        size = min(WINDOW, length - (length + 1) % 2)
        offsets = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
        side = (-(offsets**2) / (2 * DEVIATION**2)).exp()
        sides.append(side / side.sum())
    return torch.outer(*sides).expand(x.shape[1], 1, -1, -1)
