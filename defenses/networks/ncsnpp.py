"""NCSN++ and DDPM++, the noise predictors of score-SDE (Song et al., 2021), of DiffPure and of RDC.

A U-Net eps(x, t, y). The noise label t becomes an embedding e = L2 silu(L1 features(t)), to which a class adds its row
of a table; silu(e) enters every residual block. Levels of falling resolution push their feature maps on a stack, levels
of rising resolution pop and concatenate them. Optionally an input pyramid (the image at each resolution) enters the
falling half, and an output pyramid collects images of rising resolution.

The published checkpoints keep all layers in one flat list, `all_modules`, in the order of their use. Here the network
is a straight-line program over that list: the constructor appends layers and notes which operation of `_Pass` uses
which of them, and `forward` runs the notes. Tensor names, shapes and order equal the published ones, so that the
positional lists of their moving averages fit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.networks.layers import (
    Attention,
    Combine,
    ConvResample,
    Direction,
    FourierFeatures,
    Resample,
    ResBlock,
    Sum,
    conv,
    group_norm,
    linear,
    sinusoids,
)
from defenses.networks.ncsnpp_config import NCSNppConfig, configured
from harness.errors import UserError


class NCSNpp(nn.Module):
    """The noise predictor NCSN++ or DDPM++: eps(x, t, y), or eps(x, t) for all classes at once in the multi-head form.

    `NCSNpp(nf=32, ...)` and `NCSNpp(NCSNppConfig(nf=32, ...))` are the same; the configuration stays in `config`.
    Parameters are created on PyTorch's default device and drawn from its global generator.

    Attributes:
        num_classes: how many classes it tells apart, None for an unconditional network.
        heads, null_head: as configured; in the multi-head form `num_classes` leaves the null head out.
    """

    sigmas: Tensor

    def __init__(self, config: NCSNppConfig | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = configured(config, options)
        self.heads, self.null_head = config.heads, config.null_head
        self.num_classes = config.num_classes if config.heads is None else config.heads - config.null_head
        # Kept in the default type, not in the published float64, which some devices lack.
        ends = math.log(config.sigma_max), math.log(config.sigma_min)
        sigmas = torch.linspace(*ends, config.num_scales, dtype=torch.float64).exp()
        self.register_buffer("sigmas", sigmas.to(torch.get_default_dtype()))
        program = _Program(config)
        program.fall()
        program.middle()
        program.rise()
        self.steps = program.steps
        self.all_modules = nn.ModuleList(program.layers)
        if config.num_classes is not None:
            self.label_embed = nn.Embedding(config.num_classes, 4 * config.nf)
        taps = config.taps
        self.shrink, self.grow = Resample("down", taps), Resample("up", taps)
        self.merge = Sum(config.skip_rescale)

    def forward(self, x: Tensor, labels: Tensor, y: Tensor | None = None) -> Tensor:
        """Predicts the noise in x.

        Args:
            x: noisy images, (N, C, H, W), signal in [-1, 1] ([0, 1] where the configuration is not `centered`).
            labels: noise labels, (N,), whole or not; see `embedding_type`.
            y: class indices, (N,) int64, where -1 means no class; None is -1 for every image.

        Returns:
            (N, C, H, W), or (N, heads, C, H, W) in the multi-head form.

        Raises:
            UserError: for images of another shape than configured, or classes given to a network without a table.
        """
        c = self.config
        if x.shape[1:] != (c.channels, c.image_size, c.image_size):
            expected = f"(N, {c.channels}, {c.image_size}, {c.image_size})"
            raise UserError(f"the network takes images of shape {expected}, not {tuple(x.shape)}")
        embedding = F.silu(self.embed(labels, y, x.dtype))
        state = _Pass(x if c.centered else 2 * x - 1, embedding, self.shrink, self.grow, self.merge)
        for operation, where in self.steps:
            getattr(state, operation)(*(self.all_modules[i] for i in where))
        out = state.h
        if c.scale_by_sigma:
            sigma = labels if c.embedding_type == "fourier" else self.sigmas[labels.long()]
            out = out / sigma.to(out.dtype)[:, None, None, None]
        return out if c.heads is None else out.unflatten(1, (c.heads, c.channels))

    def embed(self, labels: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The embedding of noise labels and classes before its last activation, (N, 4 nf), of the given type."""
        # A label near 1000 needs more than the eight bits of bfloat16.
        t = labels.to(torch.promote_types(dtype, torch.float32))
        if self.config.embedding_type == "fourier":
            fourier, first, second = self.all_modules[:3]
            features = fourier(t.log())
        else:
            first, second = self.all_modules[:2]
            features = sinusoids(t, self.config.nf)
        embedding = second(F.silu(first(features.to(dtype))))
        if y is None:
            return embedding
        if self.config.num_classes is None:
            raise UserError("classes were given to a network that has no class table", remedy="Leave y out")
        return embedding + torch.where(y[:, None] >= 0, self.label_embed(y.clamp(min=0)), 0.0)


class _Pass:
    """One evaluation: the feature map, the stack of skips and the pyramid, changed by one operation after the other.

    Falling, the pyramid is the input at the present resolution; rising, it is the output collected so far.
    """

    def __init__(self, x: Tensor, embedding: Tensor, shrink: nn.Module, grow: nn.Module, merge: nn.Module) -> None:
        self.h = self.pyramid = x
        self.embedding, self.shrink, self.grow, self.merge = embedding, shrink, grow, merge
        self.skips: list[Tensor] = []

    def apply(self, layer: nn.Module) -> None:
        self.h = layer(self.h)

    def block(self, block: nn.Module) -> None:
        self.h = block(self.h, self.embedding)

    def push(self) -> None:
        self.skips.append(self.h)

    def pop(self) -> None:
        self.h = torch.cat([self.h, self.skips.pop()], dim=1)

    def input_skip(self, combine: nn.Module) -> None:
        self.pyramid = self.shrink(self.pyramid)
        self.h = combine(self.pyramid, self.h)

    def pyramid_residual(self, resample: nn.Module) -> None:
        self.h = self.pyramid = self.merge(resample(self.pyramid), self.h)

    def project(self, norm: nn.Module, layer: nn.Module) -> None:
        self.pyramid = layer(F.silu(norm(self.h)))

    def output_skip(self, norm: nn.Module, layer: nn.Module) -> None:
        self.pyramid = self.grow(self.pyramid) + layer(F.silu(norm(self.h)))

    def finish(self) -> None:
        self.h = self.pyramid


class _Program:
    """Layers in the order of their use, and the steps (operation of `_Pass`, indices of its layers) that use them."""

    def __init__(self, config: NCSNppConfig) -> None:
        self.config = c = config
        self.layers: list[nn.Module] = []
        self.steps: list[tuple[str, tuple[int, ...]]] = []
        self.outputs = c.channels * (c.heads or 1)
        self.width = c.nf
        self.skip_widths: list[int] = []
        if c.embedding_type == "fourier":
            self.layers.append(FourierFeatures(c.nf, c.fourier_scale))
        features = 2 * c.nf if c.embedding_type == "fourier" else c.nf
        self.layers += [linear(features, 4 * c.nf), linear(4 * c.nf, 4 * c.nf)]

    def add(self, operation: str, *layers: nn.Module) -> None:
        first = len(self.layers)
        self.layers += layers
        self.steps.append((operation, tuple(range(first, first + len(layers)))))

    def fall(self) -> None:
        c = self.config
        self.add("apply", conv(c.channels, c.nf))
        self._push()
        pyramid = c.channels
        for level, multiple in enumerate(c.ch_mult):
            if level > 0:
                self._resample("down")
                pyramid = self._input_pyramid(pyramid)
                self._push()
            for _ in range(c.num_res_blocks):
                self._block(c.nf * multiple)
                self._attend_at(level)
                self._push()

    def middle(self) -> None:
        self._block(self.width)
        self._attend()
        self._block(self.width)

    def rise(self) -> None:
        c = self.config
        pyramid = 0
        for level, multiple in reversed(list(enumerate(c.ch_mult))):
            for _ in range(c.num_res_blocks + 1):
                self.add("pop")
                self.width += self.skip_widths.pop()
                self._block(c.nf * multiple)
            self._attend_at(level)
            pyramid = self._output_pyramid(pyramid)
            if level > 0:
                self._resample("up")
        if c.progressive != "output_skip":
            self._project(self.outputs, c.init_scale)
        self.add("finish")

    def _push(self) -> None:
        self.add("push")
        self.skip_widths.append(self.width)

    def _block(self, width: int, resample: Resample | None = None) -> None:
        c = self.config
        block = ResBlock(
            self.width,
            width,
            4 * c.nf,
            dropout=c.dropout,
            init_scale=c.init_scale,
            skip_rescale=c.skip_rescale,
            resample=resample,
            shortcut="Conv_2" if c.resblock_type == "biggan" else "NIN_0",
        )
        self.add("block", block)
        self.width = width

    def _attend_at(self, level: int) -> None:
        if self.config.image_size // 2**level in self.config.attn_resolutions:
            self._attend()

    def _attend(self) -> None:
        self.add("apply", Attention(self.width, self.config.init_scale, self.config.skip_rescale))

    def _resample(self, direction: Direction) -> None:
        taps = self.config.taps
        if self.config.resblock_type == "biggan":
            self._block(self.width, Resample(direction, taps))
        elif self.config.resamp_with_conv:
            self.add("apply", ConvResample(self.width, self.width, direction, taps))
        else:
            self.add("apply", Resample(direction, taps))

    def _input_pyramid(self, width: int) -> int:
        c = self.config
        if c.progressive_input == "input_skip":
            self.add("input_skip", Combine(width, self.width, c.progressive_combine))
            self.width *= 2 if c.progressive_combine == "cat" else 1
        elif c.progressive_input == "residual":
            self.add("pyramid_residual", ConvResample(width, self.width, "down", c.taps))
            return self.width
        return width

    def _output_pyramid(self, width: int) -> int:
        c = self.config
        if c.progressive == "none":
            return 0
        if c.progressive == "residual" and width:
            self.add("pyramid_residual", ConvResample(width, self.width, "up", c.taps))
        elif c.progressive == "residual":
            self._project(self.width, 1.0)
        else:
            self._project(self.outputs, c.init_scale, onto="output_skip" if width else "project")
        return self.width

    def _project(self, width: int, init_scale: float, onto: str = "project") -> None:
        self.add(onto, group_norm(self.width), conv(self.width, width, init_scale=init_scale))
