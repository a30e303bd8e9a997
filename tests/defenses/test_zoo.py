"""What the README says of the packaged defenses holds on images that its table does not show."""

from __future__ import annotations

import pytest
import torch

from attacks.pgd import PGD
from defenses.at import AT
from defenses.dc import DC
from defenses.rdc import RDC
from defenses.undefended import Undefended
from harness import datasets
from harness.attack import Target
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import row_seeds
from harness.weights import Checkpoint

COUNT = 100


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = datasets.load("digits", "test")
    return data.images[-COUNT:], data.labels[-COUNT:]


def accuracy(defense: Defense, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad(), defense.drawing(row_seeds(0, torch.arange(len(x)))):
        return (defense(x).argmax(1) == y).float().mean().item()


@pytest.mark.parametrize("cls", [DC, RDC])
def test_diffusion_classifiers_know_95_percent_of_clean_digits(cls: type[DC], digits) -> None:
    options = {"steps": 5, "eta": Quantity(0.2)} if cls is RDC else {}
    defense = cls(Checkpoint.find("digits-ncsnpp"), timesteps=10, share_noise="classes", **options).eval()
    assert accuracy(defense, *digits) >= 0.95


@pytest.mark.parametrize(("norm", "eps", "held"), [("Linf", 0.2, "digits-at-linf"), ("L2", 1.0, "digits-at-l2")])
def test_adversarial_training_holds_where_the_undefended_model_falls(norm: str, eps: float, held: str, digits) -> None:
    x, y = digits
    attack, robust = PGD(norm, Quantity(eps), steps=30, loss="margin"), {}
    for name, cls in (("digits-cnn", Undefended), (held, AT)):
        defense = cls(Checkpoint.find(name)).eval()
        x_adv = attack.perturb(Target(defense, x, row_seeds(0, torch.arange(len(x)))), x, y)
        robust[name] = accuracy(defense, x_adv, y)
    assert robust["digits-cnn"] <= 0.02
    assert robust[held] >= 0.35
