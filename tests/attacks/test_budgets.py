"""No attack leaves its budget, whatever the defense, the view, the images or the seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.lagrange import Lagrange
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.stadv import StAdv
from attacks.torchattacks import TorchAttacks
from attacks.worst_of import WorstOf
from harness.attack import Adversarial, Attack
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import TOLERANCE, Flow

CLASSES, SHAPE = 5, (1, 6, 6)


class Purified(Defense):
    """Rounds and adds noise before a curved classifier: every view of it differs."""

    def __init__(self, seed: int, scale: float, noise: float) -> None:
        super().__init__()
        self.num_classes, self.noise, self.stochastic = CLASSES, noise, noise > 0
        self.register_buffer("weights", scale * normal(torch.arange(CLASSES) + seed, (36,)))

    def purify(self, x: Tensor) -> Tensor:
        noise = self.noise * normal(self.seeds_for(x), x.shape[1:]) if self.stochastic else 0.0
        return (x.square() + noise).clamp(0, 1)

    def purify_adjoint(self, x: Tensor) -> Tensor:
        return self.purify(x)

    def classify(self, x: Tensor) -> Tensor:
        return torch.sin(x.flatten(1)) @ self.weights.T

    def energy(self, x: Tensor) -> Tensor:
        return (x - 0.5).square().flatten(1).sum(1)


Build = Callable[[str, Quantity], Attack]

ATTACKS: dict[str, Build] = {
    "pgd": lambda norm, eps: PGD(norm, eps, steps=3, momentum=0.9, restarts=2),  # type: ignore[arg-type]
    "pgd, big steps": lambda norm, eps: PGD(norm, eps, 2, Quantity(50), "margin", eot=2),  # type: ignore[arg-type]
    "apgd": lambda norm, eps: APGD(norm, eps, steps=5, gradient="bpda"),  # type: ignore[arg-type]
    "adjoint": lambda norm, eps: APGD(norm, eps, steps=3, loss="ce", gradient="adjoint"),  # type: ignore[arg-type]
    "targeted": lambda norm, eps: APGD(norm, eps, 3, "dlr-targeted", 2, gradient="blind"),  # type: ignore[arg-type]
    "lagrange": lambda norm, eps: Lagrange(norm, eps, steps=3, optimizer="pgd"),  # type: ignore[arg-type]
    "noise": lambda norm, eps: Noise(norm, eps, tries=2),  # type: ignore[arg-type]
    "torchattacks": lambda norm, eps: TorchAttacks("DeepFool", norm, eps, {"steps": 3}),  # type: ignore[arg-type]
    "autoattack": lambda norm, eps: AutoAttack(
        norm,
        eps,
        "custom",
        ["apgd-ce", "square"],
        apgd_steps=3,
        square_queries=5,
        eot=2,  # type: ignore[arg-type]
    ),
    "stadv": lambda norm, eps: StAdv(eps, steps=3),
    "worst of": lambda norm, eps: WorstOf([PGD(norm, eps, steps=2), Noise(norm, eps)]),  # type: ignore[arg-type]
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(["Linf", "L2", "L1"]),
    eps=st.sampled_from(["1/255", "0.1", "1"]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    noise=st.sampled_from([0.0, 0.2]),
)
@settings(deadline=None, max_examples=12)
def test_no_image_leaves_its_budget(name: str, seed: int, norm: str, eps: str, scale: float, noise: float) -> None:
    if name in ("apgd", "adjoint", "targeted") and norm == "L1":
        norm = "L2"
    defense, attack = Purified(seed, scale, noise), ATTACKS[name](norm, Quantity(eps))
    x = (uniform(torch.arange(3) + seed, SHAPE) * 1.4 - 0.2).clamp(0, 1)  # pixels at 0 and 1 too
    seeds = torch.arange(3) + seed
    target = Target(defense, x, seeds, gradient=attack.gradient, eot=attack.eot)
    found = Adversarial.of(attack.perturb(target, x.clone(), defense(x).argmax(1)))
    assert found.images.shape == x.shape and torch.isfinite(found.images).all()
    assert attack.threat.violation(x, found.images, found.parameters).max() <= TOLERANCE
    assert (found.parameters is not None) == isinstance(attack.threat, Flow)
