"""The U-Net of score-SDE as EDM rebuilt it (Song et al. 2021; Karras et al. 2022, arXiv:2206.00364, App. F).

A block is, with c = 1/sqrt(2) and an embedding e of noise level and class,

    h = conv1(dropout(silu(norm1(conv0(S silu(norm0(x))) + affine(e)))));   z = c (skip(S x) + h)
    z <- c (z + proj(V softmax(K^T Q / sqrt(C)))),   (Q, K, V) = qkv(norm2(z)),  where the block has attention

and S doubles or halves the resolution through a low-pass filter, or does nothing. The DDPM++ and the NCSN++ flavour
differ in the embedding of the noise level, in the filter, and in the input pyramid p of the latter, which joins the
feature map x after each halving: x <- p <- c (x + conv(p)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.networks.layers import group_norm, sinusoids
from harness.errors import UserError, nearest

_C = math.sqrt(0.5)


class SongUNet(nn.Module):
    """The U-Net F inside EDM, in the DDPM++ or the NCSN++ flavour.

    Images (N, C, H, W), c_noise (N,), one-hot classes (N, label_dim) -> (N, C, H, W).

    Args:
        img_resolution: H and W, divisible by 2 for each level after the first.
        img_channels: C.
        label_dim: number of classes, 0 for none.
        augment_dim: number of augmentation parameters, 0 for none.
        model_channels: channels at full resolution, before multiplication; divisible by 4.
        channel_mult: multiplier per level; each level halves the resolution of the one before.
        channel_mult_emb: multiplier for the embedding of noise and class.
        num_blocks: residual blocks per level (one more on the way up).
        attn_resolutions: resolutions at which the blocks have attention.
        dropout: probability inside the blocks, in training mode only.
        embedding_type: of c_noise, "positional" (fixed sinusoids) or "fourier" (random frequencies, stored).
        encoder_type: "standard", or "residual" for the input pyramid.
        channel_mult_noise: multiplier for the width of the noise embedding's input.
        resample_filter: taps of the separable low-pass filter.

    Raises:
        UserError: embedding_type or encoder_type is unknown, or a size does not divide as it must.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        augment_dim: int = 9,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.13,
        embedding_type: str = "positional",
        encoder_type: str = "standard",
        channel_mult_noise: int = 1,
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        _check_choice("embedding_type", embedding_type, ("positional", "fourier"))
        _check_choice("encoder_type", encoder_type, ("standard", "residual"))
        _check_multiple("img_resolution", img_resolution, 2 ** (len(channel_mult) - 1))
        _check_multiple("model_channels", model_channels, 4)
        self.noise_channels = model_channels * channel_mult_noise
        emb_channels = model_channels * channel_mult_emb
        self.map_noise = FourierFeatures(self.noise_channels) if embedding_type == "fourier" else None
        self.map_label = nn.Linear(label_dim, self.noise_channels) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, self.noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(self.noise_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)

        sides = [img_resolution >> level for level in range(len(channel_mult))]
        levels = [
            _Level(f"{side}x{side}", model_channels * multiplier, side in attn_resolutions)
            for side, multiplier in zip(sides, channel_mult, strict=True)
        ]
        block = partial(UNetBlock, emb_channels=emb_channels, dropout=dropout, taps=resample_filter)
        pyramid_taps = resample_filter if encoder_type == "residual" else None
        self.enc, skips = _encoder(block, levels, img_channels, model_channels, num_blocks, pyramid_taps)
        self.dec = _decoder(block, levels, img_channels, skips)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier weights, almost none for what ends a residual branch, zero biases."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                last = name.endswith((".conv1", ".proj", "_aux_conv"))
                gain = 1e-5 if last else math.sqrt(0.2) if name.endswith(".qkv") else 1.0
                nn.init.xavier_uniform_(module.weight, gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, c_noise: Tensor, one_hot: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = self._embed(c_noise, one_hot, augment_labels)
        skips: list[Tensor] = []
        pyramid = x
        for layer in self.enc.values():
            if isinstance(layer, PyramidConv):
                x = skips[-1] = pyramid = (x + layer(pyramid)) * _C
                continue
            x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
            skips.append(x)
        *blocks, (_, norm), (_, conv) = self.dec.items()
        for name, layer in blocks:
            x = layer(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, emb)
        return conv(F.silu(norm(x)))

    def _embed(self, c_noise: Tensor, one_hot: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = sinusoids(c_noise, self.noise_channels) if self.map_noise is None else self.map_noise(c_noise)
        if self.map_label is not None and one_hot is not None:
            emb = emb + self.map_label(one_hot * math.sqrt(one_hot.shape[1]))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


class _Level(NamedTuple):
    name: str
    width: int
    attention: bool


def _encoder(
    block: Callable[..., UNetBlock],
    levels: Sequence[_Level],
    img_channels: int,
    channels: int,
    num_blocks: int,
    pyramid_taps: Sequence[float] | None,
) -> tuple[nn.ModuleDict, list[int]]:
    """The way down, and the channels of each feature map that the way up will concatenate."""
    enc = nn.ModuleDict({f"{levels[0].name}_conv": nn.Conv2d(img_channels, channels, 3, padding=1)})
    skips, pyramid = [channels], img_channels
    for i, level in enumerate(levels):
        if i:
            enc[f"{level.name}_down"] = block(channels, channels, resample=DownConv)
            skips.append(channels)
        if i and pyramid_taps is not None:
            enc[f"{level.name}_aux_residual"] = PyramidConv(pyramid, channels, 3, pyramid_taps)
            pyramid = channels
        for j in range(num_blocks):
            enc[f"{level.name}_block{j}"] = block(channels, level.width, attention=level.attention)
            channels = level.width
            skips.append(channels)
    return enc, skips


def _decoder(
    block: Callable[..., UNetBlock], levels: Sequence[_Level], img_channels: int, skips: Sequence[int]
) -> nn.ModuleDict:
    """The way up, ending in a norm and a convolution to the image's channels."""
    remaining, channels = list(skips), skips[-1]
    num_blocks = len(skips) // len(levels)
    dec = nn.ModuleDict(
        {
            f"{levels[-1].name}_in0": block(channels, channels, attention=True),
            f"{levels[-1].name}_in1": block(channels, channels),
        }
    )
    for level in reversed(levels):
        if level is not levels[-1]:
            dec[f"{level.name}_up"] = block(channels, channels, resample=UpConv)
        for j in range(num_blocks):
            attention = level.attention and j == num_blocks - 1
            dec[f"{level.name}_block{j}"] = block(channels + remaining.pop(), level.width, attention=attention)
            channels = level.width
    dec[f"{levels[0].name}_aux_norm"] = group_norm(channels)
    dec[f"{levels[0].name}_aux_conv"] = nn.Conv2d(channels, img_channels, 3, padding=1)
    return dec


class UNetBlock(nn.Module):
    """Feature map (N, in_channels, H, W), embedding (N, emb_channels) -> (N, out_channels, H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        dropout: float,
        taps: Sequence[float],
        resample: type[UpConv] | type[DownConv] | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.norm0 = group_norm(in_channels)
        self.conv0 = _conv(in_channels, out_channels, 3, resample, taps)
        self.affine = nn.Linear(emb_channels, out_channels)
        self.norm1 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        keeps_shape = resample is None and in_channels == out_channels
        self.skip = nn.Identity() if keeps_shape else _conv(in_channels, out_channels, 1, resample, taps)
        self.norm2 = group_norm(out_channels) if attention else None
        if attention:
            self.qkv = nn.Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        z = (h + self.skip(x)) * _C
        return z if self.norm2 is None else (z + self._attention(self.norm2(z))) * _C

    def _attention(self, z: Tensor) -> Tensor:
        """Spelled out, because the fused kernel of PyTorch has no second derivative."""
        # Queries, keys and values alternate channel by channel in the published weights.
        q, k, v = self.qkv(z).flatten(2).unflatten(1, (-1, 3)).unbind(2)
        weights = torch.softmax(q.mT @ (k / math.sqrt(z.shape[1])), dim=-1)
        return self.proj((v @ weights.mT).view_as(z))


class _FilteredConv(nn.Conv2d):
    """A convolution next to a separable low-pass filter whose taps, normalised to sum 1, are part of the state dict."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, taps: Sequence[float]) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        values = torch.tensor(taps, dtype=self.weight.dtype)
        self.register_buffer("resample_filter", (torch.outer(values, values) / values.sum() ** 2)[None, None])
        self.reach = (len(taps) - 1) // 2

    def _filters(self, x: Tensor) -> Tensor:
        return self.resample_filter.expand(x.shape[1], -1, -1, -1)


class UpConv(_FilteredConv):
    """Doubles the resolution (zeros in between, low-pass), then convolves."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose2d(x, 4 * self._filters(x), stride=2, padding=self.reach, groups=x.shape[1])
        return super().forward(x)


class DownConv(_FilteredConv):
    """Halves the resolution (low-pass, every second pixel), then convolves."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self._filters(x), stride=2, padding=self.reach, groups=x.shape[1])
        return super().forward(x)


class PyramidConv(_FilteredConv):
    """Convolves, then halves the resolution, over a border wide enough for both. Embodies the input pyramid."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, taps: Sequence[float]) -> None:
        super().__init__(in_channels, out_channels, kernel, taps)
        self.padding = (kernel // 2 + self.reach, kernel // 2 + self.reach)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.conv2d(x, self._filters(x), stride=2, groups=x.shape[1])


class FourierFeatures(nn.Module):
    """[sin(2 pi f c), cos(2 pi f c)] at random frequencies f ~ N(0, 16^2) that are part of the state dict."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        angles = 2 * math.pi * torch.outer(c, self.freqs)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    resample: type[UpConv] | type[DownConv] | None,
    taps: Sequence[float],
) -> nn.Conv2d:
    if resample is None:
        return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return resample(in_channels, out_channels, kernel, taps)


def _check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{argument} is '{value}'", remedy=nearest(value, choices))


def _check_multiple(argument: str, value: int, divisor: int) -> None:
    if value < 1 or value % divisor:
        raise UserError(f"{argument} is {value}", remedy=f"Choose a multiple of {divisor}")
