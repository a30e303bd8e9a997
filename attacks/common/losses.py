"""Losses on logits for an attack to maximise: one value per image, pure functions.

    z      logits, (N, K);  z_1 >= z_2 >= ...  the same, sorted
    y, t   true and target classes, (N,);  r = max_{j != y} z_j  the strongest rival of y

    margin            r - z_y                                          positive: misclassified
    ce_plain          -log softmax(z)_y
    ce                min(s, 1) ce_plain(z / s),  s of the gap g = z_y - r
    pma               s (softmax(z / s)_j - softmax(z / s)_y),  s of |g|,  j the rival    (arXiv 2411.15210)
    dlr               -(z_y - r) / (z_1 - z_3 + 1e-12)                 (Croce & Hein, 2020)
    margin_targeted   z_t - z_y
    ce_targeted       min(s, 1) log softmax(z / s)_t,  s of the gap g = z_1 - z_t
    dlr_targeted      -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2 + 1e-12)

    s = the number nearest to 1 in [g / 10, (z_1 - z_K) / 10], constant under differentiation

In float32, softmax(z)_y rounds to 1 once z_y - r passes 17, and `ce_plain` loses first half of its gradient, then
(from about 100 on) all of it. A diffusion classifier's logits, sums over pixels, differ by hundreds: `ce_plain` finds
it robust without having attacked it. Dividing by s keeps the gap at 10 or less, where the gradient is accurate to
0.2%.

Logits that lie close together cause another failure. Their softmax is nearly uniform, its gradient pushes z_y below the
mean of all classes instead of below its rival, and the loss is log K whatever the image. On a network with a spread
z_1 - z_K of 32 on digits, 37 of 64 images withstand 20 steps of PGD on `ce_plain`; with the same logits divided by ten,
47; by a hundred, 52. Dividing by s widens the spread to 10, and min(s, 1) keeps the gradient in the logits' own units.

The factor s of `pma` does so too, and lets it rise with the margin where the gap is wide: there it is about -g / 10.

Logits with a spread of 10 or more whose gap is 10 or less are left as they are. The 1e-12 of the two `dlr` is meant for
logits that are equal: where the spread is below 1, it is that share of the spread.
A name that ends in `-malt` is the targeted loss whose targets come in another order, see `attacks.common.targets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import predict

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, K) and labels (N,) to a value per image (N,), to be maximised."""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K) and the images they belong to (B,) to a value per image (B,), to be maximised."""

LossName = Literal[
    "ce",
    "ce-plain",
    "dlr",
    "margin",
    "pma",
    "ce-targeted",
    "dlr-targeted",
    "margin-targeted",
    "ce-malt",
    "dlr-malt",
    "margin-malt",
]

_WIDEST_GAP = _LEAST_SPREAD = 10.0
_TINY = 1e-12
ROUNDING = 1e-5
"""Margins below this share of the largest logit may change sign with the batch size; they are no reason to stop."""
_SMALLEST = 1e-30
"""Spread below which logits count as equal: its inverse must fit into float32."""


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The strongest rival's logit less the true class's, in the logits' own units: positive where misclassified."""
    return -predict.margin(logits, y)


def clearly_misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Whether logits (N, K) are wrong by more than rounding in another batch could undo: (N,) bool."""
    return margin(logits, y) > ROUNDING * logits.abs().amax(1)


def ce_plain(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy as published attacks use it, which fails where logits saturate the softmax or hardly differ."""
    return F.cross_entropy(logits, y, reduction="none")


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy for logits of any scale; see the module's head."""
    scale = _scale(logits, predict.margin(logits, y))
    return scale.clamp(max=1) * ce_plain(logits / scale[:, None], y)


def pma(logits: Tensor, y: Tensor) -> Tensor:
    """Probability margin: the best rival's less the true class's, for logits of any scale like `ce`.

    Source: arXiv 2411.15210, for logits whose softmax does not saturate.
    """
    scale = _scale(logits, predict.margin(logits, y).abs())
    return scale * margin((logits / scale[:, None]).softmax(1), y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: unchanged when the logits are shifted or scaled.

    Raises:
        ValueError: fewer than 3 classes, for which the loss is not defined.
    """
    _require(logits, 3, "dlr")
    logits = _widened(logits)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _TINY)


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The target class's logit less the true class's."""
    return _of(logits, target) - _of(logits, y)


def ce_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Log-probability of the target class, for logits of any scale like `ce`. It does not depend on y."""
    scale = _scale(logits, logits.amax(1) - _of(logits, target))
    return -scale.clamp(max=1) * ce_plain(logits / scale[:, None], target)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted difference of logits ratio.

    Raises:
        ValueError: fewer than 4 classes, for which the loss is not defined.
    """
    _require(logits, 4, "targeted dlr")
    logits = _widened(logits)
    top = logits.topk(4, dim=1).values
    return margin_targeted(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


LOSSES: dict[LossName, Loss] = {"ce": ce, "ce-plain": ce_plain, "dlr": dlr, "margin": margin, "pma": pma}

TARGETED: dict[LossName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce-targeted": ce_targeted,
    "dlr-targeted": dlr_targeted,
    "margin-targeted": margin_targeted,
    "ce-malt": ce_targeted,
    "dlr-malt": dlr_targeted,
    "margin-malt": margin_targeted,
}
"""Losses that take a target class of each image as well."""

MALT: frozenset[LossName] = frozenset({"ce-malt", "dlr-malt", "margin-malt"})
"""Targeted losses whose targets come in the order of `attacks.common.targets.nearest_first`."""

EVERY_CLASS: frozenset[LossName] = frozenset({"ce", "ce-plain", "pma", "ce-targeted", "ce-malt"})
"""Losses that have a derivative in every logit."""

FEWEST_CLASSES: dict[LossName, int] = {"dlr": 3, "dlr-targeted": 4, "dlr-malt": 4}
"""Losses that are not defined for any two classes."""


def loss_of(name: LossName, y: Tensor, aim: Tensor | None = None) -> RowLoss:
    """The named loss for images with labels y (N,) and, where it is targeted, target classes `aim` (N,)."""
    if name in TARGETED and aim is not None:
        return lambda logits, rows: TARGETED[name](logits, y[rows], aim[rows])
    return lambda logits, rows: LOSSES[name](logits, y[rows])


def rivals(logits: Tensor, y: Tensor) -> Tensor:
    """The classes other than y from the strongest to the weakest: (N, K), (N,) -> (N, K - 1)."""
    return logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _scale(logits: Tensor, gap: Tensor) -> Tensor:
    """s of the module's head: (N, K) and gaps (N,), none larger than the spread, -> (N,)."""
    widest, least = gap.detach() / _WIDEST_GAP, _spread(logits) / _LEAST_SPREAD
    return torch.minimum(least.clamp(min=_SMALLEST), widest.clamp(min=1))


def _widened(logits: Tensor) -> Tensor:
    """Logits with a spread below 1 brought to 1, unless they are equal."""
    spread = _spread(logits)
    return logits / spread.clamp(max=1).where(spread > _SMALLEST, 1)[:, None]


def _spread(logits: Tensor) -> Tensor:
    """The largest less the smallest, (N,), constant under differentiation."""
    return (logits.amax(1) - logits.amin(1)).detach()


def _require(logits: Tensor, classes: int, loss: str) -> None:
    if logits.shape[1] < classes:
        raise ValueError(f"{loss} needs at least {classes} classes, not {logits.shape[1]}; use the margin loss")
