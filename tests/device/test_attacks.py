"""The loops of attacks that climb a gradient: the host waits once in a step, for which images have left the batch.

Before the loop it asks which images to attack, and after it what to remark. Left out are attacks that decide on the
host by design: `adaptive`, `autoattack`, `crossover`, those that need no gradient, and those at the least distance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attacks.apgd import APGD
from attacks.parametric import Parametric
from attacks.pgd import PGD
from attacks.stadv import StAdv
from defenses.undefended import Undefended
from harness.attack import Attack
from harness.quantity import Quantity
from harness.target import Target

STEPS = 4
ATTACKS: dict[str, tuple[Callable[[], Attack], int]] = {
    "pgd": (lambda: PGD("Linf", Quantity("0.1"), steps=STEPS, early_stop=False), 0),
    "pgd, which stops": (lambda: PGD("Linf", Quantity("0.1"), steps=STEPS), STEPS + 1),
    "pgd, L2, momentum": (lambda: PGD("L2", Quantity("1"), steps=STEPS, momentum=0.9, eot=2), STEPS + 1),
    "apgd": (lambda: APGD("Linf", Quantity("0.1"), steps=STEPS, early_stop=False), 0),
    "apgd, which stops": (lambda: APGD("L2", Quantity("1"), steps=STEPS), STEPS + 1),
    "stadv": (lambda: StAdv(Quantity("0.05"), steps=STEPS), STEPS),
    "elastic": (lambda: Parametric("Elastic", Quantity("1"), steps=STEPS), STEPS + 1),
    "fog": (lambda: Parametric("Fog", Quantity("1"), steps=STEPS), STEPS + 1),
    "gabor": (lambda: Parametric("Gabor", Quantity("0.3"), steps=STEPS), STEPS + 1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_step_waits_once_at_most(name: str, on_device: Callable[[], Any]) -> None:
    build, waits = ATTACKS[name]
    attack, defense = build(), Undefended("digits-cnn").eval().to("meta")
    x, y = torch.rand(3, 1, 8, 8, device="meta"), torch.zeros(3, dtype=torch.int64, device="meta")
    with on_device() as waited:
        found = attack.perturb(Target(defense, x, torch.arange(3, device="meta")), x, y)
    assert (found.images if hasattr(found, "images") else found).shape == x.shape
    assert Counter(waited) == Counter(places=waits, on_host=1)
