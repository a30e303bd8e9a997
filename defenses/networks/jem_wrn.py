"""JEM's Wide ResNet without normalisation (Grathwohl et al. 2020, arXiv:1912.03263).

A pre-activation Wide ResNet in which every batch norm is left out, ReLU becomes LeakyReLU(0.2) and every convolution
has a bias. A block is

    out(x) = conv2(act(conv1(act(x)))) + shortcut(x)

with the stride on conv2, and as shortcut a 1x1 convolution of the raw x where the shape changes. The logits define the
energy E(x) = -logsumexp_y logits_y(x).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from defenses.networks.wide import STEM_CHANNELS, WideStage, wide_stages
from harness.weights.normalization import Normalization


class JEMWRN(nn.Module):
    """JEM's Wide ResNet, without normalisation layers.

    Images (N, C, H, W), normalised by `preprocessing` to [-1, 1] -> logits (N, K).

    The published checkpoint holds two further heads, `f.linear` and `energy_output`, which classification does not use;
    they are here so that it loads strictly. JEM adds Gaussian noise of std 0.03 to the normalised image, at test time
    too; that belongs to the defence, not to the network.

    Args:
        depth: 6 n + 4 for n blocks per stage.
        width: widening factor of the three stages.
        num_classes: K.
        in_channels: C.
        leak: negative slope of LeakyReLU.
    """

    preprocessing: ClassVar[Normalization] = Normalization(mean=(0.5,), std=(0.5,))

    def __init__(
        self, depth: int = 28, width: int = 10, num_classes: int = 10, in_channels: int = 3, leak: float = 0.2
    ) -> None:
        super().__init__()
        self.f = _Trunk(depth, width, num_classes, in_channels, leak)
        self.energy_output = nn.Linear(self.f.linear.in_features, 1)
        self.class_output = nn.Linear(self.f.linear.in_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the heads read: (N, 64 * width)."""
        return self.f(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.class_output(self.features(x))


class _Trunk(nn.Module):
    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int, leak: float) -> None:
        super().__init__()
        stages = wide_stages(depth, width)
        self.leak = leak
        self.conv1 = nn.Conv2d(in_channels, STEM_CHANNELS, 3, padding=1)
        self.layer1, self.layer2, self.layer3 = (_blocks(stage, leak) for stage in stages)
        self.linear = nn.Linear(stages[-1].out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.leaky_relu(x, self.leak).mean((2, 3))


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, leak: float) -> None:
        super().__init__()
        self.leak = leak
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv1(F.leaky_relu(x, self.leak))
        return self.conv2(F.leaky_relu(out, self.leak)) + self.shortcut(x)


def _blocks(stage: WideStage, leak: float) -> nn.Sequential:
    first = _Block(stage.in_channels, stage.out_channels, stage.stride, leak)
    rest = (_Block(stage.out_channels, stage.out_channels, 1, leak) for _ in range(stage.blocks - 1))
    return nn.Sequential(first, *rest)
