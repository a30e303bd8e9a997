"""A step of each trainer mixes no tensors of the host and the device, and asks for no value but where it must.

Its noise is drawn on the host, so that it is the same on every device, and moved. `jem` is left out: the samples that
it keeps are on the host, and it fetches those of each step from there and puts them back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.training.recipe import read
from harness.training.step import mirrored
from harness.weights import build_network

TRAIN = Path(__file__).parents[2] / "suites" / "train"
RECIPES = sorted(path.stem for path in TRAIN.glob("digits-*.yaml") if path.stem != "digits-jem")


@pytest.mark.parametrize("name", [*RECIPES, "mnist-vit"])
def test_a_step_has_its_loss_and_gradient_on_the_device(name: str, on_device: Callable[[], Any]) -> None:
    plan = read(TRAIN / f"{name}.yaml")
    trainer, size = plan.trainer.build(), 28 if "mnist" in name else 8
    network = build_network(plan.recipe.network).train().to("meta")
    x, y = torch.rand(4, 1, size, size, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    with on_device(copies=True):
        loss = trainer.loss(network, mirrored(x), y)
        loss.backward()
    assert loss.shape == ()
    learned = [value for value in network.parameters() if value.requires_grad]
    assert all(value.grad is not None and value.grad.device.type == "meta" for value in learned)


def test_every_trainer_is_here_but_one() -> None:
    tried = {read(TRAIN / f"{name}.yaml").recipe.trainer["type"] for name in RECIPES}
    every = {path.stem for path in (TRAIN.parents[1] / "defenses" / "training").glob("[!_]*.py")}
    assert every - tried == {"jem"}
