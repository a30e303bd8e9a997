"""The options of the NCSN++ family, as published configurations name them, and their validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from harness.errors import UserError, nearest

CHOICES = {
    "resblock_type": ("biggan", "ddpm"),
    "embedding_type": ("positional", "fourier"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
}
FIXED = {
    "conditional": True,
    "normalization": "GroupNorm",
    "nonlinearity": "swish",
    "attention_type": "ddpm",
    "conv_size": 3,
}


@dataclass(frozen=True, kw_only=True)
class NCSNppConfig:
    """What distinguishes the networks of the family. Names and meanings are those of the published configurations.

    Args:
        image_size: height and width, divisible by 2^(levels - 1).
        channels: of the image.
        nf: features of the first level, a multiple of 4.
        ch_mult: features of each level, as multiples of `nf`; each level has half the resolution of the one before.
        num_res_blocks: residual blocks of a falling level; a rising level has one more.
        attn_resolutions: resolutions that have attention (between the two halves there is one in any case).
        dropout: probability, inside the residual blocks, while training.
        resblock_type: "biggan" blocks resample inside, the "ddpm" form has layers of their own for it.
        fir, fir_kernel: resample with this separable kernel instead of nearest neighbours and means.
        resamp_with_conv: the resampling layers of the "ddpm" form learn a convolution.
        embedding_type: "positional" takes labels on the scale 0..999, "fourier" takes noise levels sigma > 0.
        fourier_scale: standard deviation of the Fourier frequencies.
        progressive, progressive_input, progressive_combine: how pyramids of images leave and enter the network.
        skip_rescale: divide sums of two branches by sqrt(2).
        init_scale: variance scale of the initial weights of layers that end a branch.
        centered: images come in [-1, 1] (plus noise); otherwise in [0, 1], and the network maps them to [-1, 1].
        scale_by_sigma: divide the output by the noise level.
        sigma_min, sigma_max, num_scales: noise levels, falling geometrically, that positional labels index.
        num_classes: rows of the class table, or None for a network without one.
        heads: None, or the number of predictions per pass (multi-head form of RDC; head k predicts for class k).
        null_head: the last head predicts for no class.

    Raises:
        UserError: for a value outside its choices, or sizes that do not fit each other.
    """

    image_size: int = 32
    channels: int = 3
    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 8
    attn_resolutions: Sequence[int] = (16,)
    dropout: float = 0.1
    resblock_type: Literal["biggan", "ddpm"] = "biggan"
    fir: bool = False
    fir_kernel: Sequence[float] = (1, 3, 3, 1)
    resamp_with_conv: bool = True
    embedding_type: Literal["positional", "fourier"] = "positional"
    fourier_scale: float = 16
    progressive: Literal["none", "output_skip", "residual"] = "none"
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    progressive_combine: Literal["sum", "cat"] = "sum"
    skip_rescale: bool = True
    init_scale: float = 0.0
    centered: bool = True
    scale_by_sigma: bool = False
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    num_scales: int = 1000
    num_classes: int | None = None
    heads: int | None = None
    null_head: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"{name} cannot be {value!r}", remedy=nearest(str(value), choices))
        if self.nf < 4 or self.nf % 4:
            raise UserError(f"nf must be a multiple of 4, not {self.nf}")
        if self.null_head and (self.heads is None or self.heads < 2):
            raise UserError(f"null_head is true with heads {self.heads}", remedy="Give a head per class and one more")
        halvings = len(self.ch_mult) - 1
        if self.image_size % 2**halvings:
            raise UserError(
                f"image_size {self.image_size} cannot be halved {halvings} times",
                remedy="Give ch_mult fewer levels or pad the images",
            )

    @property
    def taps(self) -> tuple[float, ...] | None:
        """The resampling kernel, None for nearest neighbours and means."""
        return tuple(self.fir_kernel) if self.fir else None

    @classmethod
    def from_published(cls, config: Mapping[str, Mapping[str, Any]], **changes: Any) -> NCSNppConfig:
        """Reads a score-SDE configuration: sections `data` and `model`; what concerns training only is left aside.

        Args:
            config: the parsed YAML file.
            changes: arguments to add or override, such as `num_classes`.

        Raises:
            UserError: if a section is missing, or the file asks for a member of the family that is not built here.
        """
        try:
            data, model = config["data"], config["model"]
            image = {"image_size": data["image_size"], "channels": data["num_channels"], "centered": data["centered"]}
        except KeyError as missing:
            raise UserError(f"the score-SDE configuration has no {missing}") from None
        for name, value in FIXED.items():
            if model.get(name, value) != value:
                raise UserError(f"{name} {model[name]!r} is not supported", remedy=f"Only {value!r} is")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in model.items() if name in known} | image | changes)


def configured(config: NCSNppConfig | None, options: Mapping[str, Any]) -> NCSNppConfig:
    """The configuration itself, or the one that the options make.

    Raises:
        UserError: for an option that does not exist, or that comes beside a configuration.
    """
    if config is not None and options:
        raise UserError(f"both a configuration and options were given: {', '.join(options)}", remedy="Give one of them")
    known = [field.name for field in fields(NCSNppConfig)]
    for name in options:
        if name not in known:
            raise UserError(f"NCSNpp has no option '{name}'", remedy=nearest(name, known))
    return config if config is not None else NCSNppConfig(**options)
