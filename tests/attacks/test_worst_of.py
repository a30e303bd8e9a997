"""Several attacks on the images still standing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attacks.clean import Clean
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.worst_of import WorstOf
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import TOLERANCE, Flow, Linf, warp

Make = Callable[..., Defense]
View = Callable[..., Target]

N, EPS = 20, Quantity("0.1")
X = 0.3 + 0.4 * uniform(torch.arange(N), (1, 4, 4))
Y = torch.zeros(N, dtype=torch.int64)
W = normal(torch.tensor([1, 2]), (16,))


class Brings(Attack):
    """Moves some images to a given place, and remembers which it was shown."""

    def __init__(self, moved: Tensor, which: Tensor) -> None:
        super().__init__()
        self.threat, self.moved, self.which = Linf(EPS), moved, which
        self.shown: list[int] = []

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        rows = torch.tensor([int((image == X).flatten(1).all(1).nonzero()) for image in x])
        self.shown = rows.tolist()
        chosen = torch.isin(rows, self.which)
        return Adversarial(torch.where(chosen[:, None, None, None], self.moved[rows], x), flags=("seen",))

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)


def biased(make: Make, **options: float) -> Defense:
    """Every image is class 0 by a lead that a budget of 0.1 may just overcome."""
    lead = ((W[1] - W[0]) * X.flatten(1)).sum(1).max() + 0.05
    return make(W, torch.tensor([lead, 0.0]), **options)


def test_a_fooled_image_is_not_shown_to_the_next_attack(linear: Make, view: View) -> None:
    defense, step = biased(linear), 0.1 * (W[1] - W[0]).sign().view(1, 4, 4)
    first, second = (Brings(X + step, which) for which in (torch.arange(5), torch.arange(3, 12)))
    falls = (defense(X + step).argmax(1) != Y).nonzero().squeeze(1)
    assert len(falls) > 5
    attack = WorstOf([first, second])
    found = attack.perturb(view(attack, defense, X), X, Y)
    gone = [row for row in falls.tolist() if row < 5]
    assert gone and first.shown == list(range(N)) and second.shown == [row for row in range(N) if row not in gone]
    assert (defense(found.images).argmax(1) != Y).nonzero().squeeze(1).tolist() == [r for r in falls.tolist() if r < 12]
    assert found.flags == ("seen",)


def test_a_stochastic_defense_meets_every_attack_with_every_image(noisy: Make, view: View) -> None:
    defense, step = biased(noisy, noise=0.01), 0.1 * (W[1] - W[0]).sign().view(1, 4, 4)
    strong, weak = Brings(X + step, torch.arange(N)), Brings(X - step, torch.arange(N))
    attack = WorstOf([strong, weak, Clean()][:2])
    found = attack.perturb(view(attack, defense, X), X, Y)
    assert weak.shown == list(range(N)) and found.images.equal(X + step)


def test_no_part_is_stronger_than_the_whole(linear: Make, view: View) -> None:
    defense = biased(linear)
    parts = [Noise("Linf", EPS, tries=3), PGD("Linf", EPS, steps=2), PGD("Linf", EPS, steps=10, loss="margin")]
    whole = WorstOf(parts)
    target = view(whole, defense, X)
    found = whole.perturb(target, X, Y).images
    assert whole.threat.violation(X, found).max() <= TOLERANCE
    fallen = defense(found).argmax(1) != Y
    for part in parts:
        assert (fallen >= (defense(part.perturb(view(part, defense, X), X, Y)).argmax(1) != Y)).all()
    assert (target.forwards <= whole.cost(2).forwards).all() and target.forwards.max() > 0


@pytest.mark.parametrize("lead", [1.0, -1.0], ids=["others fail", "another succeeds"])
def test_images_of_a_broken_attack_are_remembered_whatever_the_others_find(
    linear: Make, view: View, lead: float
) -> None:
    defense = linear(torch.zeros(2, 16), torch.tensor([lead, 0.0]))
    broken = Brings(torch.full_like(X, torch.nan), torch.tensor([3]))
    attack = WorstOf([broken, PGD("Linf", EPS, steps=1)])
    target = view(attack, defense, X)
    attack.perturb(target, X, Y)
    reasons = target.met.reasons()
    assert reasons[3] == "the attack queried an image with NaN or infinite pixels"
    assert not any(reasons[:3] + reasons[4:])


class Flows(Attack):
    """A constant flow."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.threat, self.size = Flow(Quantity("0.5")), size

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        flow = torch.full((len(x), 4, 4, 2), self.size)
        return Adversarial(warp(x, flow), flow)

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)


def test_the_flow_belongs_to_the_image_that_is_kept(linear: Make, view: View) -> None:
    attack = WorstOf([Flows(0.1), Flows(-0.3)])
    found = attack.perturb(view(attack, biased(linear), X), X, Y)
    assert (
        found.parameters is not None and attack.threat.violation(X, found.images, found.parameters).max() <= TOLERANCE
    )


def test_mixed_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="a worst case needs one"):
        WorstOf([PGD("Linf", EPS), PGD("L2", EPS)])
    with pytest.raises(ValueError, match="empty"):
        WorstOf([])


def test_what_does_not_suit_a_part_does_not_suit_the_whole(linear: Make) -> None:
    attack = WorstOf([Noise("Linf", EPS), PGD("Linf", EPS, loss="dlr")])
    assert "at least 3 classes" in str(attack.unsuitable(linear(W)))


def test_remarks_on_an_image_are_those_of_every_attack_that_met_it(linear: Make, view: View) -> None:
    class Remarks(Noise):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
            return Adversarial(x, remarks=tuple((f"of {len(x)}",) for _ in x))

    attack = WorstOf([Remarks("Linf", EPS), Brings(X, torch.arange(0)), Remarks("Linf", EPS)])
    found = attack.perturb(view(attack, linear(W, torch.tensor([50.0, 0.0])), X), X, Y)
    assert found.remarks == ((f"of {N}", f"of {N}"),) * N
