"""A climb on noisy gradients: momentum averages over draws, rivals are told by the average of many logits.

    l_i      =  0.8 l_{i-1} + 0.2 z_i                     z_i: logits of step i, l_0 those of the defense
    w_i      =  softmax over j != y of l_ij / (0.1 spread(l_i)), without what is below 0.05
    g_i      =  grad_x [ sum_j w_ij z_ij - z_iy ]
    m_{i+1}  =  0.9 m_i + g_i / mean |g_i|
    x_{i+1}  =  project(x_i + a_i steepest(m_{i+1})),     a_i = a (1 + cos(pi i / steps)) / 2

The margin to the strongest rival of one draw follows a lucky rival; DLR divides each draw by its own noise. Momentum of
0.9 makes each direction the mean of about 19 draws, for the price of one. Steps that shrink to nothing let the last
iterate settle where the mean gradient is zero, and make the last gradients draws at one point. Their cosine,

    c  =  mean over the last quarter of cos(g_i, g_{i-1}),

says how noisy a gradient is: the mean of n draws has a cosine of sqrt(n c / (1 + (n - 1) c)) with the true one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.common.gradient_attack import column
from harness.target import Step, Target
from harness.threat import Pixels

MOMENTUM = 0.9
AVERAGED = (1 + MOMENTUM) / (1 - MOMENTUM)
"""Draws that a direction is the mean of, in effect: (sum of weights)^2 / sum of squared weights."""

WANTED = 0.9
"""Cosine of a direction with the true gradient that is good enough."""

MOST_DRAWS = 4
"""Per gradient, at most."""

CUT_OFF = ("Can't call numpy()", "does not require grad", "not have been used in the graph")
"""What torch says where no gradient leads from the logits to the images."""

FORGET = 0.8
SOFT, LEAST = 0.1, 0.05
LAST = 0.25


@dataclass(frozen=True)
class Climb:
    """Where a climb of M images ended: images (M, C, H, W); cosine c of the module's head, (M,), NaN where gradients
    were zero; alive: (M,), some gradient was not zero.
    """

    images: Tensor
    cosine: Tensor
    alive: Tensor


def climb(
    view: Target,
    x: Tensor,
    start: Tensor,
    rows: Tensor,
    y: Tensor,
    logits: Tensor,
    allowed: Tensor,
    threat: Pixels,
    *,
    steps: int,
    size: float,
) -> Climb:
    """One run of `steps` gradients.

    Args:
        view: what is differentiated.
        x, start: the clean images and where to start, (M, C, H, W).
        rows: which images of the view they are, (M,); y: their labels, (M,).
        logits: of the defense near the start, a mean over draws, (M, K).
        allowed: which classes may be rivals, (M, K) bool.
        size: a of the module's head, in the norm of the threat model.
    """
    images, velocity, seen = start, torch.zeros_like(start), logits.clone()
    before, sums, counts = torch.zeros_like(start), torch.zeros(len(x)).to(x), torch.zeros(len(x)).to(x)
    alive = torch.zeros_like(y, dtype=torch.bool)
    place = torch.zeros(len(view.seeds), dtype=torch.int64, device=x.device)
    place[rows] = torch.arange(len(rows), device=x.device)
    for number in range(steps):
        weights = rival_weights(seen, y, allowed)
        step = _step(view, images, rows, weights, place)
        if step is None:
            break
        seen = FORGET * seen + (1 - FORGET) * step.logits
        grad = step.grad
        nonzero = grad.flatten(1).any(1)
        alive |= nonzero
        if number >= (1 - LAST) * steps:
            both = nonzero & before.flatten(1).any(1)
            cosine = torch.cosine_similarity(grad.flatten(1).double(), before.flatten(1).double(), dim=1).to(sums)
            sums, counts = sums + torch.where(both, cosine, 0), counts + both
        before = grad
        velocity = MOMENTUM * velocity + grad / column(grad.abs().flatten(1).mean(1), grad).clamp(min=1e-30)
        length = size * (1 + math.cos(math.pi * number / steps)) / 2
        images = threat.project(x, images + length * threat.steepest(velocity, images))
    return Climb(images, sums / counts, alive)


def _step(view: Target, images: Tensor, rows: Tensor, weights: Tensor, place: Tensor) -> Step | None:
    """The objective and its gradient, or None where no gradient leads through the view.

    weights: of the logits, (M, K), those of the image `row` of the view in the row place[row].
    """
    try:
        return view.step(images, rows, lambda logits, which: (weights[place[which]] * logits).sum(1))
    except RuntimeError as error:
        if any(words in str(error) for words in CUT_OFF):
            return None
        raise


def rival_weights(logits: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
    """Weights of the logits in the objective, (M, K): -1 for the true class, w >= 0 with sum 1 for the others.

    logits: (M, K); y: (M,); allowed: (M, K) bool, classes of some weight.
    """
    rivals = logits.masked_fill(~allowed, -torch.inf).scatter(1, y[:, None], -torch.inf)
    spread = (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)).clamp(min=1e-30)
    weights = ((rivals - rivals.amax(1, keepdim=True)) / (SOFT * spread)).softmax(1)
    weights = torch.where(weights >= LEAST, weights, 0)
    weights = weights / weights.sum(1, keepdim=True)
    return weights.scatter(1, y[:, None], -1)


def draws_needed(cosine: Tensor) -> Tensor:
    """Draws per gradient, (M,) int64: 1, 2 or 4, so that the mean over them and the momentum has a cosine of `WANTED`.

    cosine: of two gradients, (M,); NaN, of gradients that were zero, needs none.
    """
    square = WANTED**2
    chance = cosine.nan_to_num(1).clamp(min=1e-3, max=1)
    needed = square * (1 - chance) / (chance * (1 - square)) / AVERAGED
    return 2 ** needed.clamp(min=1, max=MOST_DRAWS).log2().ceil().long()
