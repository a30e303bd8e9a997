"""How noisy gradients may be for each attack: what averages tolerates more, what judges single steps less."""

from __future__ import annotations

from typing import Any

import pytest

from attacks.adaptive import Adaptive
from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.lagrange import Lagrange
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.stadv import StAdv
from attacks.worst_of import WorstOf
from harness.guard.doubt import least_cosine_averaging, least_cosine_judging
from harness.quantity import Quantity

NORM_EPS: Any = ("Linf", Quantity("0.1"))


def test_plain_pgd_averages_over_the_draws_of_a_step_alone() -> None:
    assert PGD(*NORM_EPS, steps=50).least_cosine() == pytest.approx(0.64)
    assert PGD(*NORM_EPS, steps=15, eot=2).least_cosine() == least_cosine_averaging(2)


def test_momentum_of_nine_tenths_counts_as_nineteen_draws() -> None:
    least = PGD(*NORM_EPS, steps=200, momentum=0.9).least_cosine()
    assert least == pytest.approx(least_cosine_averaging(19))
    assert StAdv(steps=200).least_cosine() == pytest.approx(least), "Adam's first moment is the same average"


def test_a_few_steps_of_momentum_average_over_no_more_than_there_are() -> None:
    assert PGD(*NORM_EPS, steps=1, momentum=0.9).least_cosine() == pytest.approx(least_cosine_averaging(1))


def test_the_adaptive_attack_takes_more_draws_where_gradients_are_noisier_up_to_a_limit() -> None:
    assert Adaptive(*NORM_EPS).least_cosine() == pytest.approx(least_cosine_averaging(4 * 19))


def test_attacks_that_judge_their_steps_ask_for_more_than_a_direction() -> None:
    for attack in (APGD(*NORM_EPS, eot=2), Lagrange(*NORM_EPS, eot=2), AutoAttack(*NORM_EPS, version="rand", eot=2)):
        assert attack.least_cosine() == least_cosine_judging(2) > least_cosine_averaging(2)
    assert Lagrange(*NORM_EPS, optimizer="pgd").least_cosine() == least_cosine_averaging(1)


def test_a_worst_case_needs_what_its_least_demanding_climb_needs() -> None:
    climbs = [APGD(*NORM_EPS), PGD(*NORM_EPS, momentum=0.9)]
    assert WorstOf([*climbs, Noise(*NORM_EPS)]).least_cosine() == climbs[1].least_cosine()
    assert WorstOf([Noise(*NORM_EPS)]).least_cosine() == 0
