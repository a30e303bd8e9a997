"""Diffusions: how much of an image and how much noise there is at each time (paper Eq. 1).

    x_t = sqrt(alpha_t) x + sigma_t eps

    discrete VP      alpha_t = prod_{s <= t} (1 - beta_s),  sigma_t^2 = 1 - alpha_t                 t in 1..T
    continuous VP    alpha_t = exp(-B),  sigma_t^2 = 1 - alpha_t,  B = beta_min t + (beta_max - beta_min) t^2 / 2
    VE (EDM)         alpha_t = 1,        sigma_t = t

Images are in [-1, 1]. What distinguishes two noisy images is, but for their scale, the level sigma_t / sqrt(alpha_t),
which EDM calls sigma: x_t / sqrt(alpha_t) = x + level eps. It grows with t, SNR = 1 / level^2 falls, and `time` finds
the t of a level, so that a network trained on one diffusion can serve another.

Numbers are computed in float64, whatever the times come in, as at small t, 1 - alpha_t cancels; and on the device of
the times, so that nothing waits for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.diffusion.constants import Constants


class Process(ABC):
    """A diffusion. Times t have any shape (discrete ones int64 in 1..T), and so have the numbers found for them."""

    @abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """sqrt(alpha_t), in (0, 1]."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """sigma_t, positive."""

    @abstractmethod
    def time(self, level: Tensor) -> Tensor:
        """The t of a level, the inverse of `level`."""

    @abstractmethod
    def label(self, t: Tensor) -> Tensor:
        """What networks trained on this diffusion are told of t, on the device of t."""

    def level(self, t: Tensor) -> Tensor:
        """sigma_t / sqrt(alpha_t), positive."""
        return self.sigma(t) / self.signal(t)

    def snr(self, t: Tensor) -> Tensor:
        """alpha_t / sigma_t^2, positive."""
        return self.level(t) ** -2


@dataclass(frozen=True, eq=False)
class Schedule(Constants, Process):
    """A diffusion in T steps, t = 1..T. Networks are told t - 1.

    Args:
        signals: sqrt(alpha_1)..sqrt(alpha_T), (T,) float64, positive.
        sigmas: sigma_1..sigma_T, (T,) float64, positive.
    """

    signals: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        return len(self.sigmas)

    def signal(self, t: Tensor) -> Tensor:
        return self._on(t.device)[0][t - 1]

    def sigma(self, t: Tensor) -> Tensor:
        return self._on(t.device)[1][t - 1]

    def time(self, level: Tensor) -> Tensor:
        """The t whose level is nearest in its logarithm, int64."""
        signals, sigmas = self._on(level.device)
        return (level.double().log()[..., None] - (sigmas / signals).log()).abs().argmin(-1) + 1

    def label(self, t: Tensor) -> Tensor:
        return t - 1

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Signals and sigmas."""
        return self.kept(device, lambda: (self.signals.to(device), self.sigmas.to(device)))


@dataclass(frozen=True)
class ContinuousVP(Process):
    """The VP diffusion of score-SDE, t in (0, 1] (Song et al. 2021, Eq. 11). Networks are told 999 t.

    Args:
        beta_min, beta_max: positive.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def signal(self, t: Tensor) -> Tensor:
        return (-self._integral(t) / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-(-self._integral(t)).expm1()).sqrt()

    def level(self, t: Tensor) -> Tensor:
        return self._integral(t).expm1().sqrt()

    def time(self, level: Tensor) -> Tensor:
        """Beyond 1 for a level that is never reached."""
        integral = level.double().square().log1p()
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def label(self, t: Tensor) -> Tensor:
        return 999 * t

    def beta(self, t: Tensor) -> Tensor:
        """-d log(alpha_t) / dt, the rate of the SDE dx = -beta x / 2 dt + sqrt(beta) dw."""
        return self.beta_min + (self.beta_max - self.beta_min) * t.double()

    def _integral(self, t: Tensor) -> Tensor:
        """B, the integral of beta from 0 to t."""
        return t.double() * (self.beta_min + self.beta(t)) / 2


@dataclass(frozen=True)
class ContinuousVE(Process):
    """x_t = x + t eps, the diffusion of EDM and of score-SDE's VE networks, t > 0. Networks are told t."""

    def signal(self, t: Tensor) -> Tensor:
        return torch.ones_like(self.sigma(t))

    def sigma(self, t: Tensor) -> Tensor:
        return t.double()

    def time(self, level: Tensor) -> Tensor:
        return level.double()

    def label(self, t: Tensor) -> Tensor:
        return t


def discrete_vp(steps: int = 1000, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The VP diffusion of score-SDE in `steps` steps, beta_t rising linearly from beta_min/T to beta_max/T.

    With the defaults it is the linear schedule of DDPM, beta from 1e-4 to 0.02, too. The two differ for other T, as
    DDPM does not divide by it.
    """
    betas = torch.linspace(beta_min / steps, beta_max / steps, steps, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0)
    return Schedule(alphas.sqrt(), (1 - alphas).sqrt())


def discrete_ve(sigmas: Tensor) -> Schedule:
    """The diffusion of EDM at chosen noise levels: sigma_t = sigmas[t - 1].

    Its steps serve `EDMDenoiser`, which goes by the level; other networks would be told the meaningless t - 1.

    Args:
        sigmas: (T,), positive.
    """
    return Schedule(torch.ones_like(sigmas, dtype=torch.float64), sigmas.double())
