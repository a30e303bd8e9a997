"""A step of an attack: what a target does around a defense makes the host wait for the device no more than it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attacks.common.losses import LOSSES
from attacks.pgd import PGD
from defenses.dc import DC
from defenses.undefended import Undefended
from harness.defense import Defense
from harness.quantity import Quantity
from harness.target import Target


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("build", "waited"),
    [(lambda: Undefended("digits-cnn"), []), (lambda: DC("digits-ncsnpp", timesteps=2), ["places"])],
    ids=["undefended", "dc"],
)
def test_a_step_waits_for_what_the_defense_waits_for(
    build: Callable[[], Defense], waited: list[str], loss: Any, on_device: Callable[[], Any]
) -> None:
    defense = build().eval().to("meta")
    x = torch.rand(3, 1, 8, 8, device="meta")
    rows = torch.arange(3, device="meta")
    target = Target(defense, x, rows, eot=2)
    objective = PGD("Linf", Quantity("0.1"), steps=1, loss=loss).objective(defense, x, rows, None)
    with on_device() as waits:
        step = target.step(x, rows, objective)
        view = target.with_view(gradient="bpda", eot=1, rows=rows[:2])
        view.step(x[:2], rows[:2], objective)
    assert step.grad.shape == x.shape and step.logits.shape == (3, 10) and step.loss.shape == (3,)
    assert waits == waited * 2  # once for each of the two steps, whatever the number of draws
