"""How much purification shortens the distance between two images (Yuezhang and Wei, 2025).

    c(d)  =  || P(x + d; s) - P(x; s) ||_2  / || d ||_2         s: one draw of the purifier's noise, for both images
    c'(d) =  || P(x + d; s') - P(x; s) ||_2 / || d ||_2         s': a draw of its own for the second

Purification that changes nothing has c = 1, one that scales an image by a has c = a. Their finding is that c foretells
how much robustness is left under noise that the attacker knows (`fixed_noise`). c' adds what the noise alone moves:
where it is much larger than c, two draws differ by more than the perturbation does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from harness.checks.finding import Measured, Skip, check
from harness.diagnosis.sources import COMPRESSION
from harness.diagnosis.subject import Subject, margin_loss
from harness.predict import query
from harness.randomness import derive, fold, normal

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Sizes of the perturbations, in units of eps."""

APART = 1.01
"""From here on, purification moves images apart; rounding does not reach it."""

CERTAIN = 1.96
"""Standard errors on either side of a mean, for its 95% interval."""

_DIRECTION, _DRAW = derive("direction of a compression"), derive("draw of a compression")


@check("compression", COMPRESSION)
def compression(subject: Subject) -> Measured:
    """By size, along a random direction and along the gradient, and with noise drawn anew."""
    if not subject.defense.defines("purify"):
        raise Skip("the defense does not purify images")
    images, target, threat = subject.images, subject.target("compression", subject.images), subject.threat()
    noise = normal(fold(target.seeds, _DIRECTION), images.x.shape[1:])
    gradient = subject.gradient(target, images, margin_loss).nan_to_num(0, 0, 0)
    steps = {"random": threat.steepest(noise, images.x), "gradient": threat.steepest(gradient, images.x)}
    purified = _purified(subject, images.x, 0)
    found: dict[str, list[tuple[float, float, float]]] = {"random": [], "gradient": [], "other_noise": []}
    for share in SHARES:
        for name, step in steps.items():
            moved = threat.project(images.x, images.x + step * share * float(subject.settings.eps))
            found[name].append(_mean(_ratio(images.x, moved, purified, _purified(subject, moved, 0))))
            if name == "random" and subject.defense.stochastic:
                found["other_noise"].append(_mean(_ratio(images.x, moved, purified, _purified(subject, moved, 1))))
    data: dict[str, Any] = {"images": len(images), "shares": list(SHARES), "compression": found}
    return _judged(subject, data)


def _judged(subject: Subject, data: dict[str, Any]) -> Measured:
    found = data["compression"]
    random, uphill = found["random"][-1], found["gradient"][-1]
    message = (
        f"two images an eps apart are {random[0]:.3g} of that apart when purified, {uphill[0]:.3g} along the gradient"
    )
    if found["other_noise"]:
        message += f"; under two draws of the noise, {found['other_noise'][-1][0]:.3g}"
        if min(random[1], uphill[1]) > APART:
            return "warned", f"{message}: purification brings nothing closer, and robustness rests on its noise", data
    return "passed", message, data


def _purified(subject: Subject, x: Tensor, draw: int) -> Tensor:
    """The images as the defense purifies them, under a draw of its noise that depends on nothing else: x's shape."""
    defense = subject.defense
    seeds = fold(subject.target("purified", subject.images).seeds, _DRAW, draw)
    batches = zip(x.split(subject.batch_size), seeds.split(subject.batch_size), strict=True)
    with torch.no_grad():
        return torch.cat([query(defense, images, own, defense.purify).float() for images, own in batches])


def _ratio(x: Tensor, moved: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """c of the module's head for each image, (N,) float64; NaN where the image was not moved."""
    size, left = (each.double().flatten(1).norm(dim=1) for each in (moved - x, after - before))
    return left / size.where(size > 0, torch.nan)


def _mean(values: Tensor) -> tuple[float, float, float]:
    """The mean with its 95% interval, by the normal distribution; of a single image, the interval is a point.

    Raises:
        Skip: no image was moved.
    """
    known = values[~values.isnan()]
    if not len(known):
        raise Skip("no image was moved: every gradient is zero")
    mean = float(known.mean())
    reach = CERTAIN * float(known.std()) / math.sqrt(len(known)) if len(known) > 1 else 0.0
    return mean, mean - reach, mean + reach
