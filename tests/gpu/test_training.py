"""A training on a GPU begins as on the CPU: its noise is drawn on the host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.callback import Callback
from harness.training import train

pytestmark = pytest.mark.gpu

TRAIN = Path(__file__).parents[2] / "suites" / "train"


class Losses(Callback):
    """Takes down the loss of each step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def stepped(self, step: int, loss: float) -> None:
        self.found.append(loss)


def losses(name: str, device: str, folder: Path) -> list[float]:
    """Of the first steps of a recipe, without dropout, whose masks each device draws for itself."""
    content = yaml.safe_load((TRAIN / f"{name}.yaml").read_text()) | {"steps": 4, "batch_size": 32, "accumulate": 2}
    content["network"] |= {"dropout": 0.0} if "dropout" in content["network"] else {}
    content["trainer"] |= {"timesteps": 1} if "timesteps" in content["trainer"] else {}
    content["flip"] = True
    (folder / f"{device}.yaml").write_text(yaml.safe_dump(content))
    callback = Losses()
    train(folder / f"{device}.yaml", device=device, callback=callback, runs=folder / device)
    return callback.found


@pytest.mark.parametrize("name", ["digits-cnn", "digits-at-linf", "digits-ncsnpp", "digits-edm"])
def test_its_first_losses_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    assert losses(name, "cuda", tmp_path) == pytest.approx(losses(name, "cpu", tmp_path), rel=1e-2)
