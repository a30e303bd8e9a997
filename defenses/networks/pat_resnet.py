"""The CIFAR ResNet-50 of perceptual adversarial training (Laidlaw et al. 2021, arXiv:2006.12655).

A bottleneck ResNet (He et al. 2016) for small images: the stem is one 3x3 convolution without pooling, and a block is

    out(x) = relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x))

with kernels 1, 3, 1, four times as many channels out of conv3 as out of conv2, and the stride on conv2.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from harness.weights.normalization import Normalization

_EXPANSION = 4

_CIFAR10 = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


class PATResNet(nn.Module):
    """The ResNet-50 for small images of perceptual adversarial training.

    Images (N, C, H, W), normalised by `preprocessing` -> logits (N, K).

    The published model also clamps its input to [0, 1] before normalising, which does nothing to images in [0, 1]. Its
    checkpoint may carry the normalisation as `normalizer.*`; `preprocessing` states the same numbers.

    Args:
        blocks: bottleneck blocks in each of the four stages.
        width: channels of the stem; stage i = 0..3 has width * 2^i inside and four times that at its output.
        num_classes: K.
        in_channels: C.
        mean, std: what `preprocessing` normalises by, per channel; the published numbers, of CIFAR-10, unless given.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] = _CIFAR10.mean,
        std: Sequence[float] = _CIFAR10.std,
    ) -> None:
        super().__init__()
        self.preprocessing = Normalization(tuple(mean), tuple(std))
        first, second, third, fourth = blocks
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, first, stride=1)
        self.layer2 = _stage(width * _EXPANSION, width * 2, second, stride=2)
        self.layer3 = _stage(width * 2 * _EXPANSION, width * 4, third, stride=2)
        self.layer4 = _stage(width * 4 * _EXPANSION, width * 8, fourth, stride=2)
        self.linear = nn.Linear(width * 8 * _EXPANSION, num_classes)

    def activations(self, x: Tensor) -> list[Tensor]:
        """What the perceptual distance compares: the output of the stem and of each stage, five of (N, C', H', W')."""
        features = [F.relu(self.bn1(self.conv1(x)))]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features

    def head(self, last: Tensor) -> Tensor:
        """Logits (N, K) from the last of the activations."""
        logits: Tensor = self.linear(last.mean((2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activations(x)[-1])


class _Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (_Bottleneck(channels * _EXPANSION, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Bottleneck(in_channels, channels, stride), *rest)
