"""The U-Net of Hugging Face, through `diffusers`: folders of config.json and diffusion_pytorch_model.safetensors.

A folder such as google/ddpm-cifar10-32 becomes a network in two steps: its config.json builds it
(`UNet2D.from_published`), and its tensors, under their present names (`UNet2D.current_names`), are its state dict.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from harness.errors import UserError, nearest, one_line

PUBLISHED_CLASS = "UNet2DModel"
OLD_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention layers as diffusers called them before its version 0.15, in which ddpm-cifar10-32 is published."""
OLD_NAME = re.compile(rf"(?<=\.)({'|'.join(OLD_LAYERS)})(?=\.(weight|bias)$)")


class UNet2D(nn.Module):
    """The U-Net of Hugging Face's `diffusers`, `UNet2DModel`, with the same names of tensors.

    Args:
        config: the arguments of `UNet2DModel`, as config.json has them.

    Raises:
        UserError: diffusers is not installed, or has no such argument.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        model, attention, processor = _diffusers()
        known = inspect.signature(model.__init__).parameters.keys() - {"self"}
        for name in config:
            if name not in known:
                raise UserError(f"{PUBLISHED_CLASS} has no argument '{name}'", remedy=nearest(name, known))
        unet = model(**config)
        for layer in unet.modules():
            if isinstance(layer, attention):
                layer.set_processor(processor())  # the fused kernel of PyTorch has no second derivative
                layer.upcast_softmax = False  # to float32, which would be a downcast in float64
        for name, layer in unet.named_children():
            self.add_module(name, layer)  # without the prefix that registering the whole would give their tensors
        self.conditional = unet.class_embedding is not None
        self.predict = unet.forward

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> UNet2D:
        """The network that a config.json describes.

        Raises:
            UserError: it describes a network of another class, or diffusers cannot build it.
        """
        if (name := config.get("_class_name")) != PUBLISHED_CLASS:
            raise UserError(f"config.json describes a network of class '{name}'", remedy=f"Use a {PUBLISHED_CLASS}")
        return cls(**{name: value for name, value in config.items() if not name.startswith("_")})

    @staticmethod
    def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict under the names that diffusers uses now."""
        return {OLD_NAME.sub(lambda old: OLD_LAYERS[old[1]], name): tensor for name, tensor in tensors.items()}

    def forward(self, x: Tensor, labels: Tensor, y: Tensor | None = None) -> Tensor:
        """What the network was trained to predict, mostly the noise in x.

        Args:
            x: noisy images, (N, in_channels, H, W), the clean ones in [-1, 1] ([0, 1] if `center_input_sample`).
            labels: noise labels, (N,), on the scale 0..999 (noise levels where the embedding is "fourier").
            y: classes, (N,) int64 in 0..num_class_embeds-1; None for an unconditional network. No class is called
                `NO_CLASS` here: where the last one means it, `defenses.diffusion.conditioning.NullClass` says so.

        Returns:
            (N, out_channels, H, W).

        Raises:
            UserError: classes for an unconditional network, or none for a conditional one.
        """
        if self.conditional == (y is None):
            raise UserError(
                f"the network is {'class-conditional' if self.conditional else 'unconditional'}",
                remedy="Give every image a class, or the one that means none" if self.conditional else "Leave y out",
            )
        predicted: Tensor = self.predict(x, labels, class_labels=y, return_dict=False)[0]
        return predicted


def _diffusers() -> tuple[Any, Any, Any]:
    """The network, its attention layer, and how that computes when spelt out."""
    try:
        from diffusers import UNet2DModel
        from diffusers.models.attention_processor import Attention, AttnProcessor
    except ImportError as error:
        raise UserError(
            f"a network of Hugging Face needs the package diffusers ({one_line(error)})",
            remedy="pip install 'adversarial-harness[diffusers]'",
        ) from error
    return UNet2DModel, Attention, AttnProcessor
