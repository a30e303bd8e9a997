"""A good attack passes every rule; each planted fault is caught by the rule that is about it."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.attack import Attack, Cost
from harness.checks import check_attack
from harness.checks.attack import NearestMean
from harness.quantity import Quantity
from harness.target import Target
from harness.threat import Linf

GENERATOR = torch.Generator().manual_seed(5)
Y = torch.arange(3).repeat(20)
X = (0.5 + 0.1 * (Y[:, None, None, None] - 1) + 0.05 * torch.randn(60, 1, 4, 4, generator=GENERATOR)).clamp(0, 1)
JUDGE = NearestMean(X, Y)


class Good(Attack):
    """One gradient step."""

    def __init__(self) -> None:
        super().__init__()
        self.threat = Linf(Quantity("0.1"))

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        def loss(logits: Tensor, rows: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(logits, y[rows], reduction="none")

        step = target.step(x, torch.arange(len(x)), loss)
        return self.threat.project(x, x + 0.1 * step.grad.sign())

    def cost(self, num_classes: int) -> Cost:
        return Cost(1, 1)


def statuses(attack: Attack) -> dict[str, str]:
    return {finding.name: finding.status for finding in check_attack(attack, JUDGE, X[:10], Y[:10])}


def test_nearest_mean_is_the_nearest_mean() -> None:
    means = torch.stack([X[k == Y].mean(0) for k in range(3)]).flatten(1)
    assert torch.equal(JUDGE(X).argmax(1), torch.cdist(X.flatten(1), means).argmin(1))


def test_margins_are_those_of_the_images_it_gets_right() -> None:
    margins, right = JUDGE.margins(X, Y), JUDGE(X).argmax(1) == Y
    assert torch.equal(margins.isinf(), ~right)
    assert (margins > 0).all()


def test_a_good_attack_passes_every_rule() -> None:
    assert set(statuses(Good()).values()) == {"passed"}


def test_an_attack_that_wrongly_says_that_its_images_are_independent_is_caught() -> None:
    class Drawn(Good):
        independent = True

        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return self.threat.project(x, x + 0.1 * torch.randn(x.shape).flip(0))

    class Honest(Good):
        independent = True

    assert statuses(Drawn())["independent"] == "failed"
    assert statuses(Honest())["independent"] == "passed"
    assert "independent" not in statuses(Good())


def test_leaving_the_budget_is_caught() -> None:
    class Greedy(Good):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return (x + 0.2).clamp(0, 1)

    assert statuses(Greedy())["within the budget"] == "failed"


def test_a_change_of_the_clean_images_is_caught() -> None:
    class Careless(Good):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return x.add_(0.01)

    assert statuses(Careless())["images left alone"] == "failed"


def test_randomness_outside_the_seeds_is_caught() -> None:
    class Private(Good):
        generator = torch.Generator().manual_seed(0)

        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return self.threat.project(x, x + 0.1 * torch.randn(x.shape, generator=self.generator))

    assert statuses(Private())["reproducible"] == "failed"


def test_randomness_of_the_global_generator_is_reproducible() -> None:
    class Global(Good):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return self.threat.project(x, x + 0.1 * torch.randn_like(x))

    assert statuses(Global())["reproducible"] == "passed"


def test_spending_more_than_it_says_is_caught() -> None:
    class Cheap(Good):
        def cost(self, num_classes: int) -> Cost:
            return Cost(0, 0)

    assert statuses(Cheap())["honest cost"] == "failed"


def test_an_attack_without_effect_is_a_warning() -> None:
    class Idle(Good):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return x

    assert statuses(Idle())["effect"] == "warned"


def test_wrong_shapes_and_crashes_end_the_examination() -> None:
    class Flat(Good):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return x.flatten(1)

    class Crashing(Good):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            raise RuntimeError("out of ideas")

    for attack in (Flat(), Crashing()):
        (finding,) = check_attack(attack, JUDGE, X[:10], Y[:10])
        assert (finding.name, finding.status) == ("runs", "failed")


def test_an_attack_that_needs_more_of_a_defense_is_not_tried() -> None:
    class Needy(Good):
        needs = ("energy",)

    (finding,) = check_attack(Needy(), JUDGE, X[:10], Y[:10])
    assert finding.status == "warned" and "energy" in finding.message
