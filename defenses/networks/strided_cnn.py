"""A small classifier of strided convolutions, cheap to attack: "CNN A" of the verification literature.

The form is that of Wong and Kolter (2018, arXiv:1711.00851) and of Dathathri et al. (2020, arXiv:2010.11645), whose
networks have kernels of 4 pixels, 16 and 32 features and 100 hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from harness.errors import UserError
from harness.weights.normalization import Normalization


class StridedCNN(nn.Sequential, nn.Module):  # listing reads bases from the source, and knows nn.Module by name
    """Two convolutions of stride 2 and two linear layers, with ReLU between them.

    The names of the tensors are those of a plain `torch.nn.Sequential` of these layers, as published files have them.

    Args:
        channels: of the image.
        image_size: height and width, divisible by 4.
        widths: features of the two convolutions.
        kernel: height and width of the convolutions' kernels, 3 to 6; a quarter of the pixels remains in any case.
        hidden: units between the two linear layers.
        num_classes: logits.
        mean, std: what `preprocessing` normalises by, per channel; left out, images are taken as they are.

    Raises:
        UserError: a size that does not fit, or one of `mean` and `std` without the other.

    Example:
        >>> import torch
        >>> StridedCNN(image_size=8)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: int = 28,
        widths: Sequence[int] = (16, 32),
        kernel: int = 4,
        hidden: int = 100,
        num_classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if image_size % 4:
            raise UserError(f"image_size {image_size} cannot be halved twice", remedy="Give a multiple of 4")
        if not 3 <= kernel <= 6:
            raise UserError(f"kernel is {kernel}", remedy="Give 3, 4, 5 or 6")
        if len(widths) != 2:
            raise UserError(f"widths has {len(widths)} numbers", remedy="Give two, one for each convolution")
        if (mean is None) != (std is None):
            raise UserError("mean and std belong together", remedy="Give both, or neither")
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(channels, widths[0], kernel, stride=2, padding=padding),
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[1], kernel, stride=2, padding=padding),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(widths[1] * (image_size // 4) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )
        if mean is not None and std is not None:
            self.preprocessing = Normalization(tuple(mean), tuple(std))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised by `preprocessing` if there is one -> logits (N, K)."""
        logits: Tensor = super().forward(x)
        return logits
