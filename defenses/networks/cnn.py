"""A small convolutional classifier, enough for the embedded digits."""

from __future__ import annotations

from torch import Tensor, nn


class CNN(nn.Module):
    """Three 3x3 convolutions, the last two each followed by a halving of the resolution, and two linear layers.

    Args:
        channels: of the image.
        image_size: height and width, divisible by 4.
        width: features of the first convolution; the others have twice as many.
        num_classes: logits.
        dropout: probability before the last layer, while training.
    """

    def __init__(
        self, channels: int = 1, image_size: int = 8, width: int = 32, num_classes: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(2 * width * (image_size // 4) ** 2, 4 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> logits (N, K)."""
        logits: Tensor = self.head(self.features(x))
        return logits
