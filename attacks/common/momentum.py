"""What a gradient weighs in momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.gradient_attack import column


def normalised(grad: Tensor) -> Tensor:
    """Gradients (M, C, H, W) with a mean magnitude of 1 each, so that no scale of a loss matters; zero ones stay zero.

    Source:
        Dong et al., 2018, equation 6 (MI-FGSM), up to a constant.

    Example:
        >>> normalised(torch.tensor([[[[1.0, -3.0]]]]))
        tensor([[[[ 0.5000, -1.5000]]]])
    """
    size = grad.abs().flatten(1).mean(1).clamp(min=torch.finfo(grad.dtype).tiny)
    return grad / column(size, grad)
