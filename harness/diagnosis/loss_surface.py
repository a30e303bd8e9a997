"""The loss surface around an image: along its gradient, and along random directions.

rise(d, r) = margin(x + r d) - margin(x),        d: steepest step of the gradient, or of Gaussian noise, of size 1

A gradient that means something raises the loss more than any of a few random directions does, at every radius up to
eps. A shattered gradient, or one of noise, is one direction among others (Tramèr et al., 2018). A stochastic defense
answers at all points under the same draws, whose noise would hide small rises, but not under those of the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.checks.finding import Measured, check
from harness.diagnosis.sources import ENSEMBLE, OBFUSCATED
from harness.diagnosis.subject import Subject, margin_loss
from harness.randomness import derive, fold, normal
from harness.threat import Pixels

RADII = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""In units of eps."""

DIRECTIONS = 4
STEEPEST = 0.75
"""Share of images in which the gradient must beat all random directions; chance gives 1 / (DIRECTIONS + 1)."""

GRID = 9
"""Points along each side of the surface that is kept for a picture."""


@check("loss surface", ENSEMBLE, OBFUSCATED)
def surface(subject: Subject) -> Measured:
    images, target = subject.images, subject.target("surface", subject.images)
    threat, eps = subject.threat(), float(subject.settings.eps)
    grad = subject.gradient(target, images, margin_loss)
    uphill = threat.steepest(grad.nan_to_num(0, 0, 0), images.x)
    noise = [normal(fold(target.seeds, derive("direction"), d), images.x.shape[1:]) for d in range(DIRECTIONS)]
    others = [threat.steepest(each, images.x) for each in noise]
    start = _margin(subject, images.x)
    rises = [[_rise(subject, threat, start, d * r * eps) for d in (uphill, *others)] for r in RADII]
    best = [float((along > torch.stack(rest).amax(0)).float().mean()) for along, *rest in rises]
    moved = _moved(images.x, threat, uphill * RADII[0] * eps) - images.x
    foreseen = float(((grad * moved).flatten(1).sum(1)).median())
    data: dict[str, Any] = {
        "radii": [r * eps for r in RADII],
        "along_gradient": [float(along.mean()) for along, *_ in rises],
        "along_random": [float(torch.stack(rest).mean()) for _, *rest in rises],
        "steepest": best,
        "foreseen": foreseen,
        "seen": float(rises[0][0].median()),
        "surface": _grid(subject, threat, uphill, others[0]),
    }
    message = (
        f"the gradient beats {DIRECTIONS} random directions in {min(best):.0%} of images at worst; at eps/8 it "
        f"foresees a rise of {foreseen:.3g}, and {data['seen']:.3g} is seen"
    )
    return ("passed" if min(best) >= STEEPEST else "warned"), message, data


def _margin(subject: Subject, x: Tensor) -> Tensor:
    """Of the images as x, under draws that every point shares and that the gradient has not seen: (N,)."""
    target = subject.target("surface points", subject.images)
    with torch.no_grad():
        return margin_loss(target(x, torch.arange(len(x), device=x.device)), subject.images.y)


def _rise(subject: Subject, threat: Pixels, start: Tensor, step: Tensor) -> Tensor:
    return _margin(subject, _moved(subject.images.x, threat, step)) - start


def _moved(x: Tensor, threat: Pixels, step: Tensor) -> Tensor:
    return threat.project(x, x + step)


def _grid(subject: Subject, threat: Pixels, uphill: Tensor, other: Tensor) -> dict[str, Any]:
    """The margin of the first image over the plane of its gradient (rows) and a random direction (columns)."""
    first = subject.images.take(slice(1))
    offsets = torch.linspace(-1, 1, GRID, device=first.x.device) * float(subject.settings.eps)
    a, b = torch.meshgrid(offsets, offsets, indexing="ij")
    plane = first.x + a.reshape(-1, 1, 1, 1) * uphill[:1] + b.reshape(-1, 1, 1, 1) * other[:1]
    target = subject.target("plane", first)
    with torch.no_grad():
        logits = target(plane.clamp(0, 1), torch.zeros(len(plane), dtype=torch.int64, device=first.x.device))
    values = margin_loss(logits, first.y.expand(len(plane))).view(GRID, GRID)
    return {"index": int(first.index[0]), "offsets": offsets.tolist(), "margin": values.tolist()}
