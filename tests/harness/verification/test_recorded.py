"""What a record says of its own making, against what the attack could have done."""

from __future__ import annotations

from attacks.autoattack import AutoAttack
from attacks.pgd import PGD
from attacks.worst_of import WorstOf
from harness.attack import Attack
from harness.quantity import Quantity
from harness.results.record import Record
from harness.verification.recorded import overspent


def record(forwards: int, backwards: int) -> Record:
    return Record(0, 1, "robust", [1], [1], [1.0], [1.0], 0, 0, 0, None, 0, forwards, backwards, 0, 0)


def accepted(attack: Attack, forwards: float, backwards: float) -> bool:
    return overspent(record(int(forwards), int(backwards)), attack, 10) is None


def test_a_record_may_have_the_passes_of_the_attack_and_no_more() -> None:
    attack = PGD("Linf", Quantity("0.1"), steps=10)
    cost = attack.cost(10)
    assert accepted(attack, cost.forwards, cost.backwards)
    assert not accepted(attack, cost.forwards + 1, cost.backwards)
    assert not accepted(attack, cost.forwards, cost.backwards + 1)


def test_what_autoattack_evaluates_in_vain_is_no_fault() -> None:
    attack = AutoAttack("Linf", Quantity("0.3"))
    assert (attack.cost(10).forwards, attack.cost(10).backwards) == (7864, 1910)
    assert accepted(attack, 7986, 1954)  # two images of a run on MNIST
    assert accepted(attack, *vars(attack.cost_limit(10)).values())
    assert not accepted(attack, attack.cost_limit(10).forwards + 1, 0)


def test_the_limit_of_several_attacks_is_that_of_all_of_them() -> None:
    attack = AutoAttack("Linf", Quantity("0.3"))
    several = WorstOf([attack, attack])  # type: ignore[list-item]
    assert several.cost_limit(10).forwards >= 2 * attack.cost_limit(10).forwards > 2 * attack.cost(10).forwards
