"""Gradients of a coarser copy of a purifier: what it is, what it costs, and that no verdict rests on it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attacks.pgd import PGD
from defenses.ddim import DDIM
from defenses.diffpure import DiffPure
from defenses.fixed_noise import FixedNoise
from defenses.gdmp import GDMP
from defenses.jem import JEM
from defenses.langevin import Langevin
from defenses.rectified_flow import RectifiedFlow
from defenses.undefended import Undefended
from harness import datasets
from harness.attack import Adversarial
from harness.defense import Defense
from harness.gradients import bpda
from harness.predict import query
from harness.quantity import Quantity
from harness.randomness import normal
from harness.target import Target
from helpers.linear import Linear, target_of

DIGITS = datasets.load("digits", "test").select(range(4))
X, Y = DIGITS.images, DIGITS.labels
SEEDS = torch.arange(4)
T, FINE, COARSE = Quantity("0.12"), Quantity("0.01"), Quantity("0.04")


def cnn() -> Undefended:
    return Undefended("digits-cnn")


PURIFIERS: dict[str, tuple[Callable[[], Defense], Callable[[], Defense]]] = {
    "ddpm": (
        lambda: DiffPure("digits-ncsnpp", cnn(), t_star=T, dt=FINE, solver="ddpm"),
        lambda: DiffPure("digits-ncsnpp", cnn(), t_star=T, dt=COARSE, solver="ddpm"),
    ),
    "ddim": (
        lambda: DDIM("digits-ncsnpp", cnn(), t_star=T, steps=12),
        lambda: DDIM("digits-ncsnpp", cnn(), t_star=T, steps=3),
    ),
    "gdmp": (
        lambda: GDMP("digits-ncsnpp", cnn(), t_star=T, dt=FINE, rounds=2),
        lambda: GDMP("digits-ncsnpp", cnn(), t_star=T, dt=COARSE, rounds=2),
    ),
    "rectified flow": (
        lambda: RectifiedFlow("digits-ncsnpp", cnn(), steps=6),
        lambda: RectifiedFlow("digits-ncsnpp", cnn(), steps=3),
    ),
    "fixed noise": (
        lambda: FixedNoise(DDIM("digits-ncsnpp", cnn(), t_star=T, steps=12), seed=5),
        lambda: FixedNoise(DDIM("digits-ncsnpp", cnn(), t_star=T, steps=3), seed=5),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PURIFIERS)
def test_a_coarser_copy_is_the_purifier_that_was_built_with_so_few_steps(name: str) -> None:
    fine, expected = (build().eval() for build in PURIFIERS[name])
    before = query(fine, X, SEEDS).detach()
    found = fine.coarser(3)
    assert torch.allclose(query(found, X, SEEDS), query(expected, X, SEEDS), atol=1e-4)
    assert found.cost() == expected.cost() < fine.cost()
    assert query(fine, X, SEEDS).equal(before) and not torch.allclose(query(found, X, SEEDS), before, atol=1e-3)
    assert fine.coarser(1000).cost() == fine.cost()


@pytest.mark.slow
def test_diffpures_sde_ends_where_it_did() -> None:
    fine = DiffPure("digits-ncsnpp", cnn(), t_star=T, dt=FINE).eval()
    coarse = fine.coarser(3)
    assert isinstance(coarse, DiffPure)
    assert list(coarse.sampler.times) == pytest.approx([0.12, 0.08, 0.04, 1e-5])  # type: ignore[attr-defined]
    assert {id(p) for p in coarse.parameters()} == {id(p) for p in fine.parameters()}, "no second copy of the networks"


@pytest.mark.slow
def test_langevins_longer_steps_go_as_far_with_as_much_noise() -> None:
    fine = Langevin(
        "digits-jem", JEM("digits-jem"), steps=20, step_size=Quantity("0.001"), temperature=Quantity(1)
    ).eval()
    coarse = fine.coarser(5)
    assert isinstance(coarse, Langevin) and coarse.steps == 5
    assert coarse.steps * coarse.step_size**2 == pytest.approx(fine.steps * fine.step_size**2)
    moved = torch.stack([query(coarse, X, SEEDS + at, lambda x: coarse.purify(x)) - X for at in range(0, 400, 4)])
    inside = moved[:, (X > 0.2) & (X < 0.8)]
    assert inside.std().item() == pytest.approx(0.001 * 20**0.5 / 2, rel=0.1)  # [0, 1] has half the length of [-1, 1]


class Halving(Defense):
    """Purifies by so many steps, each of which halves the distance to grey; counts what it is asked."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.num_classes = steps, 2
        weights = normal(torch.tensor([1, 2]), (64,))
        self.linear = Linear(weights, -weights.sum(1) / 2)

    def purify(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = (x + 0.5) / 2
        return x

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x)
        return logits

    def coarser(self, steps: int) -> Defense:
        return self.sharing(steps=min(steps, self.steps))

    def cost(self) -> float:
        return float(self.steps)


def test_a_pass_through_the_surrogate_counts_as_the_fraction_that_it_is() -> None:
    defense, y = Halving(8), torch.zeros(4, dtype=torch.int64)
    attack = PGD("Linf", Quantity("0.01"), steps=6, surrogate_steps=2, early_stop=False)
    target = target_of(attack, defense, X)
    attack.perturb(target, X, y)
    assert target.backwards.tolist() == [2] * 4  # 6 * 2 / 8, rounded up
    assert target.forwards.tolist() == [2] * 4  # and one more to look at the last iterate


def test_images_leave_where_the_defense_itself_is_wrong_and_not_its_surrogate() -> None:
    """Halving more often brings logits closer together and changes no sign: both fall at once, or neither does."""
    defense = Halving(5)
    y = defense(X).argmax(1)
    attack = PGD("Linf", Quantity("0.2"), steps=30, loss="margin", surrogate_steps=1)
    found = Adversarial.of(attack.perturb(target_of(attack, defense, X), X, y)).images
    plain = PGD("Linf", Quantity("0.2"), steps=30, loss="margin")
    same = Adversarial.of(plain.perturb(target_of(plain, defense, X), X, y)).images
    fallen = defense(found).argmax(1) != y
    assert fallen.equal(defense(same).argmax(1) != y) and fallen.any()
    assert attack.cost(2).forwards == plain.cost(2).forwards + 30


def test_the_copy_gets_the_noise_that_the_harness_fixes() -> None:
    """A copy made after a query: what the first one remembers of its parts would send the noise to the other."""
    defense = DDIM("digits-ncsnpp", cnn(), t_star=T, steps=4).eval()
    query(defense, X, SEEDS)
    coarse = defense.coarser(2)
    assert query(coarse, X, SEEDS).equal(query(coarse, X, SEEDS))
    assert not query(coarse, X, SEEDS).equal(query(coarse, X, SEEDS + 9))
    assert query(coarse, X, SEEDS).equal(query(copy.deepcopy(coarse), X, SEEDS))


def test_defenses_without_steps_to_leave_out_are_refused_and_so_is_a_blind_attack() -> None:
    attack = PGD("Linf", Quantity("0.1"), surrogate_steps=2)
    assert "coarser(steps), which Undefended does not have" in str(attack.unsuitable(cnn()))
    with pytest.raises(ValueError, match="blind"):
        PGD("Linf", Quantity("0.1"), surrogate_steps=2, gradient="blind")
    with pytest.raises(ValueError, match="surrogate_steps is 0"):
        PGD("Linf", Quantity("0.1"), surrogate_steps=0)


def test_a_target_of_a_surrogate_differentiates_it() -> None:
    target = Target(Halving(8), X, SEEDS).with_defense(Halving(8).coarser(1))
    step = target.step(X, SEEDS, lambda logits, rows: logits[:, 0])
    expected = Halving(1).linear.weights.detach()[0].view(1, 8, 8) / 2
    assert torch.allclose(step.grad, expected.expand_as(X)) and bpda(Halving(1), X).shape == (4, 2)
