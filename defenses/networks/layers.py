"""Building blocks of the NCSN++ family (Song et al., "Score-Based Generative Modeling through SDEs", 2021, App. H).

    residual   r(x, e) = conv(drop(silu(norm(conv(S silu(norm(x))) + dense(e))))),   out = (shortcut(S x) + r) c
    attention  a(x)    = P softmax(Q^T K / sqrt(C)) V,                                out = (x + a) c
    resample   S up    = k * (x with zeros between samples),   k normalised to sum to 4
               S down  = (k * x) at every second sample,       k normalised to sum to 1

with `*` a two-dimensional convolution, S the identity where a block keeps its resolution, and c = 1/sqrt(2) where
`skip_rescale` is set, else 1. Without a FIR kernel, S is nearest-neighbour doubling and the mean over 2x2 cells.

Attribute names such as `GroupNorm_0` or `NIN_0` are those of the published checkpoints, which is why they break the
naming rules of this project. Everything here is built from operations that can be differentiated twice: the fused
attention kernels of PyTorch cannot, and the likelihood maximisation of RDC needs Hessian-vector products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError

Direction = Literal["up", "down"]


def fan_average_(weight: Tensor, scale: float = 1.0) -> None:
    """Uniform initialisation of variance scale / mean(fan in, fan out); a scale of 0 stands for 1e-10."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(scale or 1e-10))


def linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    fan_average_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, padding: int | None = None,
         init_scale: float = 1.0) -> nn.Conv2d:  # fmt: skip
    """A convolution that keeps the resolution by default, with zero bias, fan-average weights."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2 if padding is None else padding)
    fan_average_(layer.weight, init_scale)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """In groups of four features, at most 32 of them. Raises UserError where the groups would not be equal."""
    groups = min(channels // 4, 32)
    if channels % groups:
        raise UserError(
            f"the {channels} features of a layer cannot be normalised in {groups} equal groups",
            remedy="Take a width that is a multiple of 32, or a smaller one",
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


def sinusoids(labels: Tensor, features: int) -> Tensor:
    """[sin(f_i t), cos(f_i t)] with f_i = 10000^(-i / (features/2 - 1)).

    Args:
        labels: t, (N,), floating point.
        features: an even number of at least 4.

    Returns:
        (N, features), the sines first.
    """
    steps = torch.arange(features // 2, dtype=labels.dtype, device=labels.device)
    angles = labels[:, None] * torch.exp(steps * (-math.log(10_000) / (features // 2 - 1)))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierFeatures(nn.Module):
    """[sin(2 pi w t), cos(2 pi w t)] at fixed frequencies w ~ N(0, scale^2). Maps (N,) to (N, 2 * features)."""

    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(features) * scale, requires_grad=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t[:, None] * self.W.to(t.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def _separable(taps: Sequence[float], like: Tensor, total: float) -> Tensor:
    """One copy per channel of the outer product of the taps, scaled to sum to `total`: (C, 1, K, K)."""
    k = torch.cat([like.new_full((1,), tap) for tap in taps])  # a tensor of them would be copied to the device
    kernel = torch.outer(k, k) * (total / k.sum() ** 2)
    return kernel.expand(like.shape[1], 1, -1, -1)


def fir_up(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Doubles the resolution, (N, C, H, W) -> (N, C, 2H, 2W), with zeros assumed outside the image."""
    first = (len(taps) - 2) // 2
    full = F.conv_transpose2d(x, _separable(taps, x, 4.0), stride=2, groups=x.shape[1])
    return full[..., first : first + 2 * x.shape[2], first : first + 2 * x.shape[3]]


def fir_filter(x: Tensor, taps: Sequence[float], before: int, after: int, *, stride: int, total: float) -> Tensor:
    """Convolves (N, C, H, W), zero-padded by `before` and `after` on both axes, and keeps every `stride`-th sample."""
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x, _separable(taps, x, total).flip(2, 3), stride=stride, groups=x.shape[1])


def fir_down(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Halves the resolution, (N, C, H, W) -> (N, C, H/2, W/2), with zeros assumed outside the image."""
    excess = len(taps) - 2
    return fir_filter(x, taps, (excess + 1) // 2, excess // 2, stride=2, total=1.0)


class Resample(nn.Module):
    """Doubles or halves the resolution, with a FIR kernel or without; nothing to learn."""

    def __init__(self, direction: Direction, taps: Sequence[float] | None) -> None:
        super().__init__()
        self.direction, self.taps = direction, taps

    def forward(self, x: Tensor) -> Tensor:
        if self.direction == "up":
            return F.interpolate(x, scale_factor=2.0) if self.taps is None else fir_up(x, self.taps)
        return F.avg_pool2d(x, 2) if self.taps is None else fir_down(x, self.taps)


class ConvResample(nn.Module):
    """Doubles or halves the resolution with a learned 3x3 convolution after the upsampling, or within the downsampling.

    With a FIR kernel the image is padded once for both filters, as StyleGAN2 does, so that the border differs from
    `Resample` followed by a padded convolution.
    """

    Conv_0: nn.Conv2d
    Conv2d_0: nn.Conv2d

    def __init__(self, in_channels: int, out_channels: int, direction: Direction, taps: Sequence[float] | None) -> None:
        super().__init__()
        self.direction, self.taps = direction, taps
        down = direction == "down"
        layer = conv(in_channels, out_channels, stride=2 if down else 1, padding=0 if down else 1)
        self.add_module("Conv_0" if taps is None else "Conv2d_0", layer)

    def forward(self, x: Tensor) -> Tensor:
        up = self.direction == "up"
        if self.taps is None:
            return self.Conv_0(F.interpolate(x, scale_factor=2.0) if up else F.pad(x, (0, 1, 0, 1)))
        if up:
            return self._fir_up(x, self.taps)
        excess = len(self.taps)
        return self.Conv2d_0(fir_filter(x, self.taps, (excess + 1) // 2, excess // 2, stride=1, total=1.0))

    def _fir_up(self, x: Tensor, taps: Sequence[float]) -> Tensor:
        weight = self.Conv2d_0.weight.flip(2, 3).transpose(0, 1)
        spread = F.conv_transpose2d(x, weight, stride=2)
        excess = len(taps) - 4
        smooth = fir_filter(spread, taps, (excess + 1) // 2 + 1, excess // 2 + 1, stride=1, total=4.0)
        return smooth + self.Conv2d_0.bias[:, None, None]  # type: ignore[index]


class NIN(nn.Module):
    """A 1x1 convolution whose weight is stored as (in, out)."""

    def __init__(self, in_channels: int, out_channels: int, init_scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(in_channels, out_channels))
        self.b = nn.Parameter(torch.zeros(out_channels))
        fan_average_(self.W, init_scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


class Sum(nn.Module):
    """x + h, divided by sqrt(2) where `rescale` is set, so that two branches of unit variance keep it."""

    def __init__(self, rescale: bool) -> None:
        super().__init__()
        self.rescale = rescale

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return (x + h) * math.sqrt(0.5) if self.rescale else x + h


class Attention(nn.Module):
    """Single-head self-attention over the pixels of (N, C, H, W), with a residual connection."""

    def __init__(self, channels: int, init_scale: float, skip_rescale: bool) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels, init_scale)
        self.merge = Sum(skip_rescale)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        tokens = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        weight = torch.cat([self.NIN_0.W * c**-0.5, self.NIN_1.W, self.NIN_2.W], dim=1)
        bias = torch.cat([self.NIN_0.b * c**-0.5, self.NIN_1.b, self.NIN_2.b])
        q, k, v = F.linear(tokens, weight.t(), bias).chunk(3, dim=2)
        h = torch.softmax(q @ k.transpose(1, 2), dim=2) @ v
        h = F.linear(h, self.NIN_3.W.t(), self.NIN_3.b)
        return self.merge(x, h.transpose(1, 2).reshape(n, c, height, width))


class ResBlock(nn.Module):
    """A residual block that adds a projection of the noise embedding to every pixel.

    Args:
        in_channels, out_channels: of the feature map.
        embedding: features of the noise embedding, which arrives already passed through its SiLU.
        dropout: probability of zeroing an activation while training.
        init_scale: variance scale of the last convolution's initial weights.
        skip_rescale: divide the sum of the two branches by sqrt(2).
        resample: applied to both branches after the first activation, or None.
        shortcut: "Conv_2" (the BigGAN block, also needed wherever the block resamples) or "NIN_0" (the DDPM block),
            created only where the two branches would not have the same form.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        dropout: float,
        init_scale: float,
        skip_rescale: bool,
        resample: Resample | None = None,
        shortcut: Literal["Conv_2", "NIN_0"] = "Conv_2",
    ) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(in_channels)
        self.Conv_0 = conv(in_channels, out_channels)
        self.Dense_0 = linear(embedding, out_channels)
        self.GroupNorm_1 = group_norm(out_channels)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = conv(out_channels, out_channels, init_scale=init_scale)
        self.resample = resample
        self.merge = Sum(skip_rescale)
        self.shortcut = shortcut if in_channels != out_channels or resample is not None else None
        if self.shortcut == "Conv_2":
            self.Conv_2 = conv(in_channels, out_channels, kernel=1)
        elif self.shortcut == "NIN_0":
            self.NIN_0 = NIN(in_channels, out_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(embedding)[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(h))))
        return self.merge(x if self.shortcut is None else getattr(self, self.shortcut)(x), h)


class Combine(nn.Module):
    """Brings an input pyramid into a feature map: projects it to the map's channels, then adds or concatenates."""

    def __init__(self, in_channels: int, out_channels: int, method: Literal["sum", "cat"]) -> None:
        super().__init__()
        self.Conv_0 = conv(in_channels, out_channels, kernel=1)
        self.method = method

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        pyramid = self.Conv_0(pyramid)
        return pyramid + h if self.method == "sum" else torch.cat([pyramid, h], dim=1)
