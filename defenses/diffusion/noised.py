"""Diffusion models on images that Gaussian noise was added to already (Chen et al., 2024; Carlini et al., 2023).

A smoothed defense sees x + sigma e with x in [0, 1]. On the model's scale, [-1, 1], that is

    x_tau = x~ + tau e,    x~ = 2 x - 1,  tau = 2 sigma

a sample of the diffusion at the level tau (see `schedule`): the networks of other diffusions see sqrt(alpha_t) x_tau,
with t the time of that level. Forgetting the factor 2, or the scaling, is the usual mistake.

One-step denoising (Carlini et al.): the model's estimate of the clean image from x_tau alone,

    x^ = x_tau - tau eps_theta(sqrt(alpha_t) x_tau, t)

The noised diffusion classifiers (Chen et al., Sec. 4) bound log p(x_tau | y) by the levels l > tau above. With
x_l = x_tau + sqrt(l^2 - tau^2) n, the mean of q(x_{l'} | x_l, x_tau) for l' just below l differs from the model's by a
multiple of

    (l^2 x_tau - tau^2 x_l) / (l^2 - tau^2) - h(x_l)  =  l (eps_theta(x_l) - l / sqrt(l^2 - tau^2) n)

where h is the model's estimate of the clean image. In the limit of small steps the bound is

    log p(x_tau | y) >= C - integral over l > tau of  dl / l  E_n || eps_theta(x_l, y) - l / sqrt(l^2 - tau^2) n ||^2

which is tight for a perfect model. So the loss of a diffusion classifier stays as it is, on the levels above tau, but
for x_l and for the target that eps_theta is compared with:

    exact (EPNDC)          x_l = x_tau + sqrt(l^2 - tau^2) n      target l / sqrt(l^2 - tau^2) n
    approximate (APNDC)    x_l = x_tau + sqrt(l^2 - tau^2) n      target (x_l - x^) / l: the posterior given x_0 = x^
    denoised               x_l = x^ + l n                         target n: the plain classifier of the denoised image,
                                                                  which the authors' script certifies

Weights are those of the plain classifier at the same levels. With tau = 0 and x^ = x all three are the plain one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from defenses.diffusion.corruption import PLAIN, Corruption, images
from defenses.diffusion.denoiser import Denoiser
from defenses.diffusion.schedule import Process, Schedule
from defenses.diffusion.timesteps import SIGMA_DATA, TimeGrid, Weighting, time_grid
from harness.errors import UserError

Posterior = Literal["exact", "approximate", "denoised"]

SCALE = 2.0
"""Networks see 2 x - 1: noise of [0, 1] images is twice as large there."""


@dataclass(frozen=True)
class NoisyStart:
    """Corruption of images with noise of the level tau.

    Args:
        tau: the level, positive; every timestep's is larger.
        approximate: whether the target is that of the posterior given the denoised image; images are then pairs of the
            noisy and the denoised one, (P, 2 C, H, W), see `paired`.
    """

    tau: float
    approximate: bool = False

    @property
    def per_image(self) -> int:
        return 2 if self.approximate else 1

    def __call__(self, x: Tensor, eps: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        noisy, *clean = (2 * x - 1)[:, None].chunk(self.per_image, dim=2)
        level = images(sigma / signal)
        added = (level.square() - self.tau**2).sqrt()
        x_l = noisy + added * eps
        target = (x_l - clean[0]) / level if clean else level / added * eps
        return target, images(signal) * x_l


def paired(noisy: Tensor, clean: Tensor) -> Tensor:
    """What `NoisyStart` of the approximate posterior takes: two images (N, C, H, W) each as (N, 2 C, H, W)."""
    return torch.cat([noisy, clean], 1)


def corruption_of(posterior: Posterior, tau: float) -> Corruption:
    """The corruption of a noised diffusion classifier. tau: the level of the noise."""
    return PLAIN if posterior == "denoised" else NoisyStart(tau, posterior == "approximate")


def denoised_once(denoiser: Denoiser, process: Process, x: Tensor, sigma: float) -> Tensor:
    """The model's estimate of the clean images in one step, without a class.

    Args:
        denoiser: made for `process`.
        x: noisy images on the scale of [0, 1], unclipped, (N, C, H, W).
        sigma: the standard deviation of their noise, on that scale.

    Returns:
        (N, C, H, W) on the scale of [0, 1], unclipped.
    """
    level = torch.full((len(x),), SCALE * sigma, dtype=torch.float64, device=x.device)
    t = process.time(level)
    signal, level = (images(values.to(x)) for values in (process.signal(t), process.level(t)))
    noisy = 2 * x - 1
    return (noisy - level * denoiser.eps(signal * noisy, t, None) + 1) / 2


def refuse_out_of_reach(process: Process, sigma: float) -> None:
    """Raises UserError if a discrete diffusion has no level near that of the noise."""
    if isinstance(process, Schedule):
        levels = process.level(torch.tensor([1, len(process)])).tolist()
        if not levels[0] <= SCALE * sigma <= levels[1]:
            low, high = (f"{level / SCALE:.3g}" for level in levels)
            raise UserError(f"sigma is {sigma:g}", remedy=f"The network's diffusion reaches from {low} to {high}")


def noised_grid(
    schedule: Schedule,
    sigma: float,
    timesteps: Literal["all"] | int,
    weighting: Weighting = "uniform",
    *,
    sigma_data: float = SIGMA_DATA,
) -> TimeGrid:
    """Timesteps whose levels are above that of noise, and their weights.

    Args:
        sigma: the standard deviation of the noise, on the scale of [0, 1].
        timesteps: "all", or how many (T'): the last ones of T' equal parts of the range.
        weighting, sigma_data: as for `time_grid`.

    Raises:
        UserError: there are no such timesteps, or fewer than T'.
    """
    every = torch.arange(1, len(schedule) + 1)
    above = every[schedule.level(every) > SCALE * sigma].tolist()
    count = len(above) if timesteps == "all" else timesteps
    if not 1 <= count <= len(above):
        raise UserError(
            f"timesteps is {timesteps}, and sigma {sigma:g} leaves {len(above)} noisier ones",
            remedy="Choose a smaller sigma, or fewer timesteps",
        )
    chosen = [above[j * len(above) // count - 1] for j in range(1, count + 1)]
    return time_grid(schedule, chosen, weighting=weighting, sigma_data=sigma_data)
