"""The Wide ResNet with dropout that DiffPure purifies for (Nie et al. 2022, arXiv:2205.07460): WRN-70-16.

A pre-activation Wide ResNet with batch norm. A block is

    a = relu(bn1(x));   out(x) = conv2(dropout(relu(bn2(conv1(a))))) + s

where the shortcut s is x if the number of channels stays, and a 1x1 convolution of a (not of x) if it changes. The
stride is on conv1.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from defenses.networks.wide import STEM_CHANNELS, WideStage, wide_stages
from harness.weights.normalization import Normalization


class WRNDropout(nn.Module):
    """The Wide ResNet with dropout, WRN-70-16, that DiffPure purifies for.

    Images (N, C, H, W), normalised by `preprocessing` -> logits (N, K).

    The published model normalises in its own forward pass, but its state dict knows nothing of it: here the caller
    applies `preprocessing`. Every published tensor name has the prefix `module.`, which a loader strips.

    Args:
        depth: 6 n + 4 for n blocks per stage.
        width: widening factor of the three stages.
        dropout: probability between the two convolutions of a block, in training mode only.
        num_classes: K.
        in_channels: C.
    """

    preprocessing: ClassVar[Normalization] = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))

    def __init__(
        self, depth: int = 70, width: int = 16, dropout: float = 0.3, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        stages = wide_stages(depth, width)
        self.conv1 = nn.Conv2d(in_channels, STEM_CHANNELS, 3, padding=1, bias=False)
        self.block1, self.block2, self.block3 = (_Stage(stage, dropout) for stage in stages)
        self.bn1 = nn.BatchNorm2d(stages[-1].out_channels)
        self.fc = nn.Linear(stages[-1].out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class _Stage(nn.Module):
    def __init__(self, stage: WideStage, dropout: float) -> None:
        super().__init__()
        first = _Block(stage.in_channels, stage.out_channels, stage.stride, dropout)
        rest = (_Block(stage.out_channels, stage.out_channels, 1, dropout) for _ in range(stage.blocks - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut = (
            None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out: Tensor = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(activated)))))
        return out + (x if self.convShortcut is None else self.convShortcut(activated))
