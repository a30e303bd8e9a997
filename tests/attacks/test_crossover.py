from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.crossover import CHILD_STEP, Crossover, _child_step
from attacks.pgd import PGD
from harness.attack import Adversarial
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import uniform
from harness.target import Target
from harness.threat import NORMS, TOLERANCE

SIDE, REGION = 8, 2
REGIONS = (SIDE // REGION) ** 2
EPS = 0.25


class TwoPeaks(Defense):
    """Every 2x2 region has two optima at opposite ends of the budget: 1 at one end, 0.5 at the other.

    A climb ends at one or the other by its start. The rival's margin is their sum over the 16 regions less
    `needed`: at best 16 - needed, which takes the right end of every region.
    """

    def __init__(self, needed: float) -> None:
        super().__init__()
        self.needed = needed
        self.right = torch.where(uniform(torch.tensor([5]), (REGIONS,))[0] < 0.5, -1.0, 1.0)

    def classify(self, x: Tensor) -> Tensor:
        at = torch.nn.functional.avg_pool2d(x - 0.5, REGION).flatten(1) / EPS * self.right
        rival = torch.maximum(at, -0.5 * at).sum(1) - self.needed
        return torch.stack([torch.zeros_like(rival), rival, rival.detach() - 100], 1)


class Guess(Defense):
    stochastic = True

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


def images(count: int) -> tuple[Tensor, Tensor]:
    return torch.full((count, 1, SIDE, SIDE), 0.5), torch.zeros(count, dtype=torch.int64)


def attacked(attack: PGD | Crossover, defense: Defense, count: int = 2, seed: int = 0) -> tuple[Tensor, Target]:
    x, y = images(count)
    target = Target(defense, x, seed + torch.arange(count))
    return Adversarial.of(attack.perturb(target, x, y)).images, target


def margins(defense: Defense, x: Tensor) -> Tensor:
    logits = defense(x)
    return logits[:, 1] - logits[:, 0]


def test_of_two_to_the_sixteen_local_optima_it_finds_one_of_the_best_where_a_thousand_starts_of_pgd_do_not() -> None:
    defense = TwoPeaks(needed=REGIONS - 0.75)  # 17 of the 65,536 have at most one region at its wrong end
    found, _ = attacked(Crossover("Linf", Quantity(EPS), population=150, generations=30, steps=4), defense, count=1)
    assert (margins(defense, found) > 0).all()
    pgd, _ = attacked(PGD("Linf", Quantity(EPS), steps=10, loss="margin"), defense, count=1000)
    assert (margins(defense, pgd) < 0).all()


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_what_it_returns_is_within_the_budget(norm: str) -> None:
    eps = Quantity({"Linf": EPS, "L2": 1.0, "L1": 4.0}[norm])
    found, _ = attacked(Crossover(norm, eps, population=4, generations=3, steps=3), TwoPeaks(REGIONS))  # type: ignore[arg-type]
    assert NORMS[norm](eps).violation(images(2)[0], found).max() <= TOLERANCE


def test_an_image_s_result_does_not_depend_on_the_others() -> None:
    attack, defense = Crossover("Linf", Quantity(EPS), population=6, generations=4, steps=3), TwoPeaks(REGIONS - 1.0)
    together, _ = attacked(attack, defense, count=3)
    for seed in range(3):
        alone, _ = attacked(attack, defense, count=1, seed=seed)
        assert together[seed].equal(alone[0])


def test_its_passes_are_those_that_it_names_where_nothing_is_found() -> None:
    attack, defense = Crossover("Linf", Quantity(EPS), population=4, generations=3, steps=2), TwoPeaks(REGIONS + 1.0)
    _, target = attacked(attack, defense)
    cost = attack.cost(3)
    assert target.forwards.tolist() == [cost.forwards] * 2 and target.backwards.tolist() == [cost.backwards] * 2


def test_an_image_that_is_misclassified_already_costs_one_generation() -> None:
    attack, defense = Crossover("Linf", Quantity(EPS), population=4, generations=3, steps=2), TwoPeaks(-1.0)
    _, target = attacked(attack, defense)
    assert target.forwards.max() < attack.cost(3).forwards / 1.1


def test_steps_of_children_cover_their_range() -> None:
    steps = torch.tensor([_child_step(generation) for generation in range(1, 101)]).log()
    low, high = torch.tensor(CHILD_STEP).log()
    assert (steps >= low).all() and (steps <= high).all()
    counts = torch.histc((steps - low) / (high - low), bins=10, min=0, max=1)
    assert counts.min() >= 8 and counts.max() <= 12


def test_a_stochastic_defense_does_not_suit_it() -> None:
    assert "single draws" in (Crossover("Linf", Quantity(EPS)).unsuitable(Guess()) or "")


@pytest.mark.parametrize("wrong", [{"population": 1}, {"generations": 0}, {"steps": 0}])
def test_counts_that_mean_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Crossover("Linf", Quantity(EPS), **wrong)  # type: ignore[arg-type]
