"""A small vision transformer trained by flow matching, as a denoiser of EDM's form.

It was trained to give back the image u in [0, 1] from a straight line between the image and noise,

    u_t = t u + (1 - t) n,    n ~ N(0, 1),  t in (0, 1).

Divided by t that is u + (1 - t) / t n, and for x = 2 u - 1 in [-1, 1] it is x + sigma n with sigma = 2 (1 - t) / t.
So, with F the transformer's estimate of u,

    D(x; sigma, y) = 2 F(t (x + 1) / 2, t, y) - 1,    t = 2 / (2 + sigma).

Tokens are patches with learned positions, two of the time, and two of the class, which has a row of its own for "none".
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.networks.layers import sinusoids
from harness.errors import UserError


class FlowViT(nn.Module):
    """A small vision transformer trained by flow matching, as a denoiser D(x; sigma, y) of EDM's form.

    The names of its tensors are those of the published file; see `mnist-diffusion-vit` in `defenses/published.yaml`.

    Args:
        image_size: S, a multiple of `patch_size`.
        patch_size: side of a square patch, in pixels.
        channels: C of an image.
        dim: length of a token, even, and a multiple of `heads`.
        depth: transformer layers.
        heads: attention heads.
        hidden: units of the feed-forward branch.
        num_classes: K.

    Raises:
        UserError: sizes that do not fit each other.

    Example:
        >>> network = FlowViT(image_size=8, patch_size=4, dim=8, depth=1, heads=2, hidden=16)
        >>> network(torch.rand(2, 1, 8, 8), torch.tensor([0.5, 2.0]), torch.tensor([3, -1])).shape
        torch.Size([2, 1, 8, 8])
    """

    predicts: ClassVar[str] = "edm"
    knows_no_class: ClassVar[bool] = True

    def __init__(
        self,
        image_size: int = 28,
        patch_size: int = 7,
        channels: int = 1,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        hidden: int = 256,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise UserError(
                f"patches of {patch_size} pixels do not tile images of {image_size}",
                remedy="Choose a patch_size that divides image_size",
            )
        if dim % heads or dim % 2:
            raise UserError(f"dim {dim} is not even, or no multiple of {heads} heads", remedy="Choose another dim")
        self.num_classes, self.dim = num_classes, dim
        self.pos_embed = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2, dim))
        self.patch_embed = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.transformer = nn.ModuleList(_Layer(dim, heads, hidden) for _ in range(depth))
        self.unpatch = nn.ConvTranspose2d(dim, channels, patch_size, stride=patch_size)
        self.y_encoder = nn.Embedding(num_classes + 1, 2 * dim)

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """Estimates the clean images.

        Args:
            x: noisy images, (N, C, S, S), the clean ones in [-1, 1].
            sigma: standard deviations of the noise, (N,), positive.
            y: classes, (N,) int64, where -1 means no class; None is -1 for every image.

        Returns:
            (N, C, S, S).
        """
        t = 2 / (2 + sigma.to(torch.promote_types(x.dtype, torch.float32)))
        y = torch.full_like(sigma, -1, dtype=torch.int64) if y is None else y
        return 2 * self.flow(t.to(x)[:, None, None, None] * (x + 1) / 2, t, y) - 1

    def flow(self, u_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The estimate of u from u_t = t u + (1 - t) n, (N, C, S, S); t: (N,) in (0, 1); y: (N,) int64, -1 for none."""
        patches = self.patch_embed(u_t)
        tokens = patches.flatten(2).mT + self.pos_embed
        time = sinusoids(t, 2 * self.dim).to(u_t).unflatten(1, (2, self.dim))
        label = self.y_encoder(torch.where(y < 0, self.num_classes, y)).unflatten(1, (2, self.dim))
        tokens = torch.cat([tokens, time, label], 1)
        for layer in self.transformer:
            tokens = layer(tokens)
        image: Tensor = self.unpatch(tokens[:, :-4].mT.unflatten(2, patches.shape[2:]))
        return image


class _Layer(nn.Module):
    """Attention and a feed-forward branch, each followed by a normalisation: tokens (N, L, dim) to the same shape.

    It computes what `torch.nn.TransformerEncoderLayer` does in evaluation, but by one path, whether or not gradients
    are recorded: that module rounds differently without them.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _Attention(dim, heads)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.self_attn(tokens))
        tokens = self.norm2(tokens + self.linear2(F.gelu(self.linear1(tokens))))
        return tokens


class _Attention(nn.Module):
    """softmax(q k^T / sqrt(dim / heads)) v for each head, with the tensors of `torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        projected = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (N, heads, L, dim / heads)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        found: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return found
