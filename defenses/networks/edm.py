"""EDM: a preconditioned denoiser (Karras et al. 2022, arXiv:2206.00364, Table 1).

    D(x; sigma, y) = c_skip x + c_out F(c_in x; c_noise, y)

    c_skip = s^2 / (sigma^2 + s^2),  c_out = sigma s / sqrt(sigma^2 + s^2),
    c_in = 1 / sqrt(sigma^2 + s^2),  c_noise = ln(sigma) / 4,   s = sigma_data

F is a U-Net in one of two flavours: DDPM++ (the "VP" networks of the paper) or NCSN++ (the "VE" ones).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from defenses.networks.songunet import SongUNet
from harness.errors import UserError

DDPMPP: Mapping[str, Any] = MappingProxyType(
    {"embedding_type": "positional", "encoder_type": "standard", "channel_mult_noise": 1, "resample_filter": (1, 1)}
)
NCSNPP: Mapping[str, Any] = MappingProxyType(
    {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": (1, 3, 3, 1)}
)


class EDM(nn.Module):
    """EDM's denoiser: a preconditioned U-Net that estimates the clean image in x = clean + sigma * noise.

    D(x; sigma, y): (N, C, H, W), (N,), classes or none -> (N, C, H, W).

    The defaults are those of the published class-conditional CIFAR-10 network, and arguments bear the published names.

    Args:
        img_resolution: H and W of an image.
        img_channels: C of an image.
        label_dim: number of classes, 0 for an unconditional network.
        sigma_data: s, the standard deviation of the data.
        knows_no_class: whether it is trained to answer images without a label, see `forward`. The published conditional
            networks are not.
        unet: the other arguments of `SongUNet`; `**DDPMPP` (the default) or `**NCSNPP` select a flavour.

    Raises:
        UserError: an argument outside its choices.
    """

    predicts: ClassVar[str] = "edm"

    def __init__(
        self,
        img_resolution: int = 32,
        img_channels: int = 3,
        label_dim: int = 10,
        sigma_data: float = 0.5,
        knows_no_class: bool = False,
        **unet: Any,
    ) -> None:
        super().__init__()
        self.label_dim = label_dim
        self.num_classes = label_dim or None
        self.sigma_data = sigma_data
        self.knows_no_class = knows_no_class
        self.model = SongUNet(img_resolution, img_channels, label_dim, **unet)

    @classmethod
    def from_published(cls, arguments: Mapping[str, Any]) -> EDM:
        """The network that a published file describes, from the constructor arguments that the file holds.

        Half precision (`use_fp16`) is left to the caller: the network computes in the dtype of its weights.

        Raises:
            UserError: the file holds another U-Net than the two flavours of `SongUNet`.
        """
        rest = {name: value for name, value in arguments.items() if name != "use_fp16"}
        for name, supported in (("model_type", "SongUNet"), ("decoder_type", "standard")):
            if (value := rest.pop(name, None)) != supported:
                raise UserError(f"The network has {name} '{value}'", remedy=f"Use one with {name} '{supported}'")
        return cls(**rest)

    def forward(
        self, x: Tensor, sigma: Tensor, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """Denoised images.

        Args:
            x: noisy images, (N, C, H, W), the clean ones in [-1, 1].
            sigma: noise levels > 0, (N,), or a scalar for all images.
            y: classes, (N,) int64 in [0, label_dim), or -1 for an image without a label, whose one-hot vector is zero.
                None means -1 for all. A network that never saw the zero vector in training computes something for
                it, but no estimate of an unconditional model: `knows_no_class` says so.
            augment_labels: parameters of the training augmentation, (N, augment_dim). None: no augmentation.

        Returns:
            (N, C, H, W), in the dtype of x.

        Raises:
            ValueError: classes for an unconditional network.
        """
        sigma = sigma.to(x).expand(len(x))
        c_noise = sigma.log() / 4
        sigma = sigma[:, None, None, None]
        c_in = (sigma**2 + self.sigma_data**2).rsqrt()
        c_skip = (self.sigma_data * c_in) ** 2
        c_out = sigma * self.sigma_data * c_in
        return c_skip * x + c_out * self.model(c_in * x, c_noise, self._one_hot(x, y), augment_labels)

    def _one_hot(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        if not self.label_dim:
            if y is not None:
                raise ValueError("an unconditional network takes no classes")
            return None
        if y is None:
            return x.new_zeros(len(x), self.label_dim)
        return F.one_hot(y + 1, self.label_dim + 1)[:, 1:].to(x.dtype)
