"""The low frequencies of images, by the discrete cosine transform.

L(x)  =  C_H^T C_H x C_W^T C_W        C_n: the first K rows of the orthonormal DCT-II of length n; channel by channel
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def low_pass(images: Tensor, lowest: int) -> Tensor:
    """L of the module's head: (N, C, H, W) -> (N, C, H, W), an orthogonal projection.

    Args:
        lowest: K; a side that has no more values than that keeps all its frequencies.

    Example:
        >>> low_pass(torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2), 1).flatten().tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    rows, columns = (_projection(side, lowest, images.device).to(images.dtype) for side in images.shape[2:])
    return rows @ images @ columns


def _projection(side: int, lowest: int, device: torch.device) -> Tensor:
    """C^T C, (side, side), float64."""
    place = torch.arange(side, dtype=torch.float64, device=device)
    numbers = torch.arange(min(lowest, side), dtype=torch.float64, device=device)
    wave = torch.cos(math.pi / side * numbers[:, None] * (place + 0.5))
    wave = wave / wave.norm(dim=1, keepdim=True)
    return wave.T @ wave
