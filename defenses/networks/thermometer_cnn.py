"""A small convolutional classifier of thermometer codes (Buckman et al., 2018).

    code_k(x) = clamp(l x - k, 0, 1),   k = 0 .. l-1,  for each pixel x in [0, 1]

At multiples of 1/l the code is the one-hot-cumulative code of the paper: as many ones as the pixel has levels, then
zeros. Between them it is its piecewise linear interpolation, whose derivative is there for attacks to use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.networks.cnn import CNN


class ThermometerCNN(nn.Module):
    """The network `cnn` on thermometer codes of the pixels.

    Args:
        levels: l above.
        channels, image_size, width, num_classes: of the image and as for `CNN`.
    """

    def __init__(
        self, levels: int = 16, channels: int = 1, image_size: int = 8, width: int = 32, num_classes: int = 10
    ) -> None:
        super().__init__()
        self.levels = levels
        self.cnn = CNN(levels * channels, image_size, width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> logits (N, K)."""
        logits: Tensor = self.cnn(codes(x, self.levels))
        return logits


def codes(x: Tensor, levels: int) -> Tensor:
    """Images (N, C, H, W) in [0, 1] -> their codes (N, C * levels, H, W) in [0, 1], channel by channel."""
    steps = torch.arange(levels, device=x.device, dtype=x.dtype).view(-1, 1, 1)
    return (levels * x.unsqueeze(2) - steps).clamp(0, 1).flatten(1, 2)
