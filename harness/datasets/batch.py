"""Images of a dataset with their labels and indices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images of a dataset. index: (N,) int64 positions in the split; x: (N, C, H, W) in [0, 1]; y: (N,) int64."""

    index: Tensor
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, which: slice | Tensor) -> Images:
        return Images(self.index[which], self.x[which], self.y[which])

    def to(self, device: torch.device) -> Images:
        return Images(self.index.to(device), self.x.to(device), self.y.to(device))
