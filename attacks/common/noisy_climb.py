"""A climb on noisy gradients, whose momentum averages over draws.

    g_i      =  grad_x tanh((max_{j != y} z_ij - z_iy) / s)    z_i: logits at x_i, each draw with the rival that leads
    m_{i+1}  =  0.9 m_i + g_i / mean |g_i|
    x_{i+1}  =  project(x_i + a_i steepest(m_{i+1})),     a_i = a (1 + cos(pi i / steps)) / 2

The aim is that draws are misclassified, and not by how much: tanh, with s the size of a margin on the clean image,
stands for that. The mean margin itself is ruled by draws of huge logits. Momentum of 0.9 makes each direction the mean
of about 19 draws, for the price of one: a rival that leads by luck in one draw counts as one of 19, and each rival as
often as it leads. DLR would divide each draw by its own noise. Each gradient has the same weight, whatever its size (as
in MI-FGSM: Dong et al., 2018, equation 6): otherwise a few rule the mean, where draws differ in size or tanh is flat
for most of them. Steps that shrink to nothing let the last iterate settle where the mean gradient is zero, and make the
last gradients draws at one point. Their cosine,

    c  =  mean over the last quarter of cos(g_i, g_{i-1}),

says how noisy a gradient is: the mean of n draws has a cosine of sqrt(n c / (1 + (n - 1) c)) with the true one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.common.losses import RowLoss, margin
from attacks.common.momentum import normalised
from attacks.common.schedules import SCHEDULES
from harness.guard.doubt import averaged_draws
from harness.target import Step, Target
from harness.threat import Pixels

MOMENTUM = 0.9
AVERAGED = averaged_draws(MOMENTUM, steps=1000)
"""Draws that a direction is the mean of, in effect."""

WANTED = 0.8
"""Cosine of a direction with the true gradient that is good enough."""

MOST_DRAWS = 4
"""Of one gradient."""

CUT_OFF = ("Can't call numpy()", "does not require grad", "not have been used in the graph")
"""What torch says where no gradient leads from the logits to the images."""

LAST = 0.25
"""Share of the steps whose gradients are taken for draws at one point."""


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
    scale: Tensor,
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
        scale: s of the module's head, (M,).
        size: a of the module's head, in the norm of the threat model.
    """
    images, velocity = start, torch.zeros_like(start)
    before, sums, counts = torch.zeros_like(start), torch.zeros(len(x)).to(x), torch.zeros(len(x)).to(x)
    alive = torch.zeros_like(y, dtype=torch.bool)
    place = torch.zeros(len(view.seeds), dtype=torch.int64, device=x.device)
    place[rows] = torch.arange(len(rows), device=x.device)

    def loss(logits: Tensor, which: Tensor) -> Tensor:
        own = place[which]
        return (margin(logits, y[own]) / scale[own]).tanh()

    for number in range(steps):
        step = _step(view, images, rows, loss)
        if step is None:
            break
        grad = step.grad
        nonzero = grad.flatten(1).any(1)
        alive |= nonzero
        if number >= (1 - LAST) * steps:
            both = nonzero & before.flatten(1).any(1)
            cosine = torch.cosine_similarity(grad.flatten(1).double(), before.flatten(1).double(), dim=1).to(sums)
            sums, counts = sums + torch.where(both, cosine, 0), counts + both
        before = grad
        velocity = MOMENTUM * velocity + normalised(grad)
        length = size * SCHEDULES["cosine"](number / steps)
        images = threat.project(x, images + length * threat.steepest(velocity, images))
    return Climb(images, sums / counts, alive)


def _step(view: Target, images: Tensor, rows: Tensor, loss: RowLoss) -> Step | None:
    """The loss and its gradient, or None where no gradient leads through the view."""
    try:
        return view.step(images, rows, loss)
    except RuntimeError as error:
        if any(words in str(error) for words in CUT_OFF):
            return None
        raise


def draws_needed(cosine: Tensor) -> Tensor:
    """Draws per gradient, (M,) int64 up to `MOST_DRAWS`, so that the mean over them and the momentum has a cosine of
    `WANTED` with the true gradient.

    cosine: of two gradients, (M,); NaN, of gradients that were zero, needs none.
    """
    square = WANTED**2
    chance = cosine.nan_to_num(1).clamp(min=1e-3, max=1)
    needed = square * (1 - chance) / (chance * (1 - square)) / AVERAGED
    return needed.clamp(min=1, max=MOST_DRAWS).ceil().long()
