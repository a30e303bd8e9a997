"""Ways to differentiate a defense. All have the defense's own forward values, except `blind`.

    exact   the defense itself, purification included
    bpda    forward: purify, then classify; backward: through `purify_surrogate` in place of purify (Athalye et al., 2018)
    blind   the classifier alone: the attacker does not know that images are purified
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from harness.defense import Defense

Gradient = Literal["exact", "bpda", "blind"]


def exact(defense: Defense, x: Tensor) -> Tensor:
    return defense(x)


def bpda(defense: Defense, x: Tensor) -> Tensor:
    with torch.no_grad():
        purified = defense.purify(x)
    surrogate = defense.purify_surrogate(x)
    return defense.classify(surrogate + (purified - surrogate).detach())


def blind(defense: Defense, x: Tensor) -> Tensor:
    return defense.classify(x)


VIEWS: dict[Gradient, Callable[[Defense, Tensor], Tensor]] = {"exact": exact, "bpda": bpda, "blind": blind}
