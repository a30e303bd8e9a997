"""HybViT: one vision transformer that classifies and denoises (Yang et al. 2022, arXiv:2208.07791).

Tokens z = [cls, patches] + position, n + 1 of them, pass through `depth` pairs of residual branches

    z <- z' + attention(norm(z'));   z <- z' + ffn(norm(z')),    each time from z' = (1 + scale) z + shift

after which the cls token gives the logits and the patches give the noise estimate. A timestep t modulates
tokens: scale and shift, from a layer on the embedding of t, have one value per token. Without t there is no modulation:
that is the classifier, on clean images.

The diffusion model around it is DDPM's with a cosine schedule (Nichol & Dhariwal 2021), T = 1000:

    abar(s) = cos^2(pi/2 (s/T + 0.008) / 1.008),  beta_t = min(1 - abar(t + 1) / abar(t), 0.999),
    x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.networks.layers import sinusoids
from harness.errors import UserError
from harness.weights.normalization import Normalization


class HybViT(nn.Module):
    """HybViT, a vision transformer that classifies and denoises.

    Images (N, C, S, S), normalised by `preprocessing` to [-1, 1] -> logits (N, K).

    The state dict is that of the published diffusion wrapper: its schedule, and the transformer under `denoise_fn`.

    Args:
        img_size: S, a multiple of `patch_size`.
        patch_size: side of a square patch, in pixels.
        num_classes: K.
        dim: length of a token, even and at least 4.
        depth: transformer layers.
        heads: attention heads, of `dim_head` each.
        dim_head: length of a query, key and value.
        mlp_ratio: hidden width of the feed-forward branch, as a multiple of dim.
        in_channels: C.
        ffn_time: t modulates the feed-forward branch too, not only attention.
        timesteps: T of the diffusion.

    Raises:
        UserError: img_size is not a multiple of patch_size.
    """

    preprocessing: ClassVar[Normalization] = Normalization(mean=(0.5,), std=(0.5,))
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor

    def __init__(
        self,
        img_size: int = 32,
        patch_size: int = 4,
        num_classes: int = 10,
        dim: int = 384,
        depth: int = 9,
        heads: int = 12,
        dim_head: int = 32,
        mlp_ratio: int = 2,
        in_channels: int = 3,
        ffn_time: bool = True,
        timesteps: int = 1000,
    ) -> None:
        super().__init__()
        if img_size % patch_size:
            raise UserError(
                f"Patches of {patch_size} pixels do not tile images of {img_size}",
                remedy="Choose a patch_size that divides img_size",
            )
        for name, values in _cosine_schedule(timesteps).items():
            self.register_buffer(name, values)
        self.denoise_fn = _ViT(
            img_size, patch_size, num_classes, dim, depth, heads, dim_head, mlp_ratio * dim, in_channels, ffn_time
        )

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits (N, K) of images (N, C, S, S); with timesteps t, (N,) int64 in [0, T), those of noisy images."""
        return self.denoise_fn.mlp_head(self.denoise_fn(x, t)[:, 0])

    def noise_estimate(self, x_t: Tensor, t: Tensor | None) -> Tensor:
        """eps(x_t, t), (N, C, S, S), at timesteps t, (N,) int64 in [0, T)."""
        patches = self.denoise_fn.recon_head(self.denoise_fn(x_t, t)[:, 1:])
        return _from_patches(patches, x_t.shape, self.denoise_fn.patch_size)

    def add_noise(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t at timesteps t, (N,) int64 in [0, T), from images and Gaussian noise, both (N, C, S, S)."""
        signal = self.sqrt_alphas_cumprod[t, None, None, None]
        spread = self.sqrt_one_minus_alphas_cumprod[t, None, None, None]
        return signal * x + spread * noise


class _ViT(nn.Module):
    def __init__(
        self,
        img_size: int,
        patch_size: int,
        num_classes: int,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        hidden: int,
        channels: int,
        ffn_time: bool,
    ) -> None:
        super().__init__()
        tokens = (img_size // patch_size) ** 2 + 1
        patch_dim = channels * patch_size**2
        self.dim, self.patch_size = dim, patch_size
        self.pos_embedding = nn.Parameter(torch.randn(1, tokens, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        # The identities hold the places of layers without weights, so that the tensor names count as published.
        self.time_mlp = nn.Sequential(
            nn.Identity(), nn.Linear(dim, 4 * tokens), nn.GELU(), nn.Linear(4 * tokens, 4 * tokens)
        )
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(patch_dim, dim))
        self.recon_head = nn.Sequential(nn.Linear(dim, patch_dim))
        self.transformer = _Transformer(tokens, dim, depth, heads, dim_head, hidden, ffn_time)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, x: Tensor, t: Tensor | None) -> Tensor:
        embedding = None if t is None else self.time_mlp(sinusoids(t.to(x.dtype), self.dim))
        patches = self.to_patch_embedding(_to_patches(x, self.patch_size))
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embedding
        return self.transformer(tokens, embedding)


class _Transformer(nn.Module):
    def __init__(
        self, tokens: int, dim: int, depth: int, heads: int, dim_head: int, hidden: int, ffn_time: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(dim, heads, dim_head, hidden, ffn_time) for _ in range(depth))
        self.time_layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(4 * tokens, 2 * tokens)) for _ in range(depth)
        )

    def forward(self, z: Tensor, embedding: Tensor | None) -> Tensor:
        for layer, time_layer in zip(self.layers, self.time_layers, strict=True):
            z = layer(z, None if embedding is None else time_layer(embedding))
        return z


class _Layer(nn.ModuleList):
    def __init__(self, dim: int, heads: int, dim_head: int, hidden: int, ffn_time: bool) -> None:
        super().__init__([_PreNorm(dim, _Attention(dim, heads, dim_head)), _PreNorm(dim, _FeedForward(dim, hidden))])
        self.ffn_time = ffn_time

    def forward(self, z: Tensor, modulation: Tensor | None) -> Tensor:
        attention, feed_forward = self
        z = _modulate(z, modulation)
        z = z + attention(z)
        z = _modulate(z, modulation if self.ffn_time else None)
        return z + feed_forward(z)


def _modulate(z: Tensor, modulation: Tensor | None) -> Tensor:
    """(1 + scale) z + shift for tokens (N, n + 1, dim) and one scale and shift per token, (N, 2 n + 2); z for None."""
    if modulation is None:
        return z
    scale, shift = modulation[:, :, None].chunk(2, dim=1)
    return (1 + scale) * z + shift


class _PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, z: Tensor) -> Tensor:
        return self.fn(self.norm(z))


class _Attention(nn.Module):
    """Spelled out, because the fused kernel of PyTorch has no second derivative."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.to_qkv(z).unflatten(2, (3, self.heads, self.dim_head)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q * self.dim_head**-0.5 @ k.mT, dim=-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # Index 2 is the dropout of the published model, whose probability is zero.
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


def _to_patches(x: Tensor, side: int) -> Tensor:
    """(N, C, h side, w side) -> (N, h w, side side C), each patch row by row with its channels innermost."""
    cells = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _from_patches(patches: Tensor, shape: torch.Size, side: int) -> Tensor:
    """The inverse of `_to_patches` for images of the given shape."""
    n, c, height, width = shape
    cells = patches.reshape(n, height // side, width // side, side, side, c)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(shape)


def _cosine_schedule(timesteps: int) -> dict[str, Tensor]:
    """What the published model keeps of its schedule: (T,) each, in the default dtype, computed in float64."""
    steps = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    target = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - target[1:] / target[:-1]).clamp(0, 0.999)
    kept = (1 - betas).cumprod(0)
    kept_before = torch.cat([kept.new_ones(1), kept[:-1]])
    variance = betas * (1 - kept_before) / (1 - kept)
    schedule = {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": kept_before,
        "sqrt_alphas_cumprod": kept.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - kept).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - kept).log(),
        "sqrt_recip_alphas_cumprod": kept.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / kept - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * kept_before.sqrt() / (1 - kept),
        "posterior_mean_coef2": (1 - kept_before) * (1 - betas).sqrt() / (1 - kept),
    }
    return {name: values.to(torch.get_default_dtype()) for name, values in schedule.items()}
