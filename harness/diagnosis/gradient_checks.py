"""Whether there is a gradient, and how much of it is noise.

Randomness (paper Sec. 4.4): ten gradients of each image, the mean cosine of the 45 pairs, averaged over images. With
EOT k a gradient is the mean of k draws and counts as one. If a draw is g + n, n independent with mean 0, then in many
dimensions

    c_k = E cos = ||g||² / (||g||² + E||n||² / k) = 1 / (1 + rho / k),        rho = E||n||² / ||g||²

so that rho = k (1 / c_k - 1) says it all: cosine c takes rho c / (1 - c) draws, and a defense of rho_1 is rho_1 / rho_2
times as random as one of rho_2, in that it takes so many times the draws to be as consistent. That is how "640 times as
random" in the paper is read here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.checks.finding import Measured, check
from harness.datasets.batch import Images
from harness.diagnosis.sources import AUTOATTACK, INDICATORS, OBFUSCATED, RDC
from harness.diagnosis.subject import Loss, Subject, margin_loss

GRADIENTS = 10
"""Per image, as in the paper."""

NOISY = 0.5
"""Cosine below which gradients hold more noise than signal: rho / k > 1."""

CLEAR = 0.9

SAME = 1 - 1e-3
"""Cosine of two gradients that should be one, which rounding on a GPU may tell apart."""

TOLERATED = 0.1
"""Share of images without a gradient that an attack can afford."""


@check("gradient present", OBFUSCATED, AUTOATTACK, INDICATORS)
def present(subject: Subject) -> Measured:
    """Zero gradients: of the margin, none at all; of plain cross-entropy, those that saturated softmax takes away."""
    images = subject.images
    count = len(images)
    grads = {name: _gradient(subject, images, loss) for name, loss in LOSSES.items()}
    finite = torch.stack([torch.isfinite(g).flatten(1).all(1) for g in grads.values()]).all(0)
    broken = int((~finite).sum())
    zero = {name: int((g == 0).flatten(1).all(1).sum()) for name, g in grads.items()}
    data = {"images": count, "not_finite": broken, **{f"zero_{name}": found for name, found in zero.items()}}
    message = (
        f"zero for {zero['margin']} of {count} images by the margin, for {zero['cross_entropy']} by plain cross-entropy"
    )
    if broken:
        return "warned", f"NaN or infinite for {broken} of {count} images; {message}", data
    if zero["margin"] > TOLERATED * count:
        return "warned", f"{message}: use BPDA, or an attack without gradients", data
    if zero["cross_entropy"] > TOLERATED * count:
        return "warned", f"{message}: softmax saturates, and attacks on plain cross-entropy are blind", data
    return "passed", message, data


@check("gradient randomness", RDC)
def randomness(subject: Subject) -> Measured:
    """Pairwise cosine of ten gradients, at EOT 1, 2, 4, ..."""
    stochastic = subject.defense.stochastic
    largest = subject.settings.largest_eot if stochastic else 1
    by_eot, undefined = cosine_by_eot(subject, doublings(largest))
    data: dict[str, Any] = {"gradients": GRADIENTS, "images": len(subject.images), "undefined": undefined}
    if not by_eot:
        return "warned", "every gradient is zero, and has no direction", data
    cosines = {k: float(found.mean()) for k, found in by_eot.items()}
    k, c = max(cosines.items())
    rho = noise_ratio(c, k)
    intervals = {str(k): interval(found) for k, found in by_eot.items()}
    data |= {"cosine": {str(k): c for k, c in cosines.items()}, "interval": intervals, "noise_ratio": rho}
    seen = "cosine " + ", ".join(f"{c:.3f}" + (f" at EOT {k}" if stochastic else "") for k, c in cosines.items())
    if not stochastic:
        if c < SAME:
            return "warned", f"{seen} between gradients of a defense that calls itself deterministic", data
        return "passed", f"{seen}: deterministic", data
    if rho is None:
        return "warned", f"{seen}: nothing but noise", data
    expected = 1 / (1 + rho / subject.eot)
    draws = rho * CLEAR / (1 - CLEAR)
    message = f"{seen}; noise/signal {rho:.3g}: EOT {subject.eot} gives {expected:.2f}, {CLEAR} takes {draws:.3g} draws"
    return ("warned" if expected < NOISY else "passed"), message, {**data, "cosine_of_attack": expected}


def cosine_by_eot(subject: Subject, counts: list[int]) -> tuple[dict[int, Tensor], int]:
    """Mean pairwise cosine of every image at each count of draws, and how many have a gradient of zero at the first.

    Images whose gradient is zero are left out. Every group takes its first k draws for EOT k: memory is that of ten
    gradients, passes those of the largest count.
    """
    images, target = subject.images, subject.target("randomness", subject.images, eot=1)
    sums = torch.zeros(GRADIENTS, *images.x.shape, dtype=torch.float64)
    cosines, undefined = {}, 0
    for k in range(1, counts[-1] + 1):
        for group in sums:
            group += subject.gradient(target, images, margin_loss).cpu()
        if k in counts:
            found = pairwise_cosine(sums.flatten(2))
            known = found[~found.isnan()]
            undefined = max(undefined, len(found) - len(known))
            if len(known):
                cosines[k] = known
    return cosines, undefined


def interval(values: Tensor, z: float = 1.96) -> tuple[float, float]:
    """95% interval of the mean of cosines (n,), by the normal distribution; all of [-1, 1] for a single one."""
    if len(values) < 2:
        return -1.0, 1.0
    mean, reach = float(values.mean()), z * float(values.std()) / math.sqrt(len(values))
    return max(-1.0, mean - reach), min(1.0, mean + reach)


def pairwise_cosine(grads: Tensor) -> Tensor:
    """Mean cosine over all pairs of the gradients of each image: (G, N, D) -> (N,); NaN where one is zero."""
    size = grads.norm(dim=2, keepdim=True)
    unit = grads / size.where(size > 0, torch.nan)
    count = len(grads)
    return (unit.sum(0).square().sum(1) - count) / (count * (count - 1))


def noise_ratio(cosine: float, eot: int) -> float | None:
    """rho of the module's head; None where no gradients agree at all."""
    return max(0.0, eot * (1 / cosine - 1)) if cosine > 0 else None


def doublings(largest: int) -> list[int]:
    """1, 2, 4, ... and the largest itself."""
    return sorted({2**i for i in range(largest.bit_length()) if 2**i <= largest} | {largest})


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


LOSSES: dict[str, Loss] = {"margin": margin_loss, "cross_entropy": _cross_entropy}


def _gradient(subject: Subject, images: Images, loss: Loss) -> Tensor:
    return subject.gradient(subject.target("gradient", images), images, loss)
