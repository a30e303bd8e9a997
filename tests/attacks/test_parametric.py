from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from attacks.common.losses import margin
from attacks.corruption import Corruption, CorruptionName
from attacks.parametric import Parametric, ThreatName
from harness.attack import Attack
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threat import TOLERANCE
from harness.threats import CORRUPTIONS, PARAMETRIC
from helpers.linear import Linear, NoisyLinear, target_of

N, SHAPE = 12, (1, 8, 8)
X = 0.3 + 0.4 * uniform(torch.arange(N), SHAPE)


def linear(classes: int = 2, bias: float = 0.0) -> Linear:
    return Linear(normal(torch.arange(classes) + 3, (64,)), torch.tensor([bias] + [0.0] * (classes - 1)))


def test_every_threat_model_has_a_name_for_suites() -> None:
    assert set(get_args(ThreatName)) == set(PARAMETRIC)
    assert set(get_args(CorruptionName)) == set(CORRUPTIONS)


def test_on_a_linear_classifier_it_finds_the_largest_margin_that_coefficients_can_make() -> None:
    """Images are linear in the coefficients of JPEG, so the margin rises by eps times the sum of its derivatives."""
    attack, defense = Parametric("JPEG", Quantity("0.05"), steps=10), linear(bias=99.0)
    y = torch.zeros(N, dtype=torch.int64)
    z = torch.zeros(N, *SHAPE, requires_grad=True)
    (slope,) = torch.autograd.grad(margin(defense(attack.threat.render(X, z)), y).sum(), z)
    found = attack.perturb(target_of(attack, defense, X), X, y)
    rise = margin(defense(found.images), y) - margin(defense(X), y)
    assert torch.allclose(rise, 0.05 * slope.abs().flatten(1).sum(1), rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"restarts": 2}, {"gradient": "blind"}, {"eot": 3}])
def test_cost_is_exact_for_an_image_that_is_never_misclassified(options: dict[str, Any]) -> None:
    attack = Parametric("Elastic", Quantity(1), steps=4, **options)
    defense: Any = NoisyLinear(normal(torch.arange(2), (64,)), torch.tensor([999.0, 0.0])) if "eot" in options else None
    target = target_of(attack, defense or linear(bias=999.0), X)
    attack.perturb(target, X, torch.zeros(N, dtype=torch.int64))
    assert target.forwards.tolist() == [attack.cost(2).forwards] * N
    assert target.backwards.tolist() == [attack.cost(2).backwards] * N


@pytest.mark.parametrize("threat", [name for name in PARAMETRIC if 1 in PARAMETRIC[name].channels])
def test_images_leave_when_misclassified_and_none_leaves_its_budget(threat: Any) -> None:
    attack, defense = Parametric(threat, Quantity("0.8"), steps=8, restarts=2), linear(3)
    y = defense(X).argmax(1)
    target = target_of(attack, defense, X)
    found = attack.perturb(target, X, y)
    fooled = margin(defense(found.images), y) > 0
    assert fooled.sum() > 0
    assert ((target.forwards < attack.cost(3).forwards) == fooled).all()
    assert found.parameters is not None
    assert attack.threat.violation(X, found.images, found.parameters).max() <= TOLERANCE


def test_no_image_leaves_on_a_lucky_draw() -> None:
    attack = Parametric("Elastic", Quantity(1), steps=5, eot=2)
    target = target_of(attack, NoisyLinear(normal(torch.arange(2), (64,)), noise=9.0), X)
    attack.perturb(target, X, torch.zeros(N, dtype=torch.int64))
    assert target.forwards.tolist() == [attack.cost(2).forwards] * N


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": Quantity(0)}, "positive"),
        ({"steps": 0}, "at least 1"),
        ({"threat": "Linf"}, "valid values: Elastic"),
        ({"loss": "dlr-targeted"}, "valid values"),
        ({"restarts": 2, "random_start": False}, "random_start: true"),
        ({"momentum": 1.0}, "below 1"),
        ({"step_size": Quantity(-1)}, "positive"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parametric(**{"threat": "JPEG", "eps": Quantity(1), **options})


def test_a_name_fixes_the_threat_model() -> None:
    from harness.config import registry

    attack: Attack = registry.find("attacks", "elastic")(eps=Quantity("0.5"))
    assert str(attack.threat) == "Elastic 0.5" and attack.is_independent()


def test_a_corruption_is_the_same_for_every_defense_and_seed_and_asks_none() -> None:
    attack = Corruption("gaussian_noise", 3)
    first, second = (target_of(attack, linear(bias=b), X, torch.arange(N) + s) for b, s in ((0, 0), (9, 5)))
    y = torch.zeros(N, dtype=torch.int64)
    found, again = attack.perturb(first, X, y), attack.perturb(second, X.flip(0), y)
    assert torch.equal(found.images, again.images.flip(0))
    assert first.forwards.eq(0).all() and attack.cost(2).forwards == 0
    assert attack.threat.violation(X, found.images, found.parameters).max() <= TOLERANCE


def test_of_several_corruptions_the_worst_is_kept() -> None:
    y = torch.zeros(N, dtype=torch.int64)
    margins = []
    for tries in (1, 10):
        attack = Corruption("gaussian_noise", 5, tries=tries)
        target = target_of(attack, linear(bias=999.0), X)
        found = attack.perturb(target, X, y)
        margins.append(margin(linear(bias=999.0)(found.images), y))
        assert target.forwards.tolist() == [attack.cost(2).forwards] * N
        assert attack.threat.violation(X, found.images, found.parameters).max() <= TOLERANCE
    assert margins[1].mean() > margins[0].mean()


@pytest.mark.parametrize("options", [{"kind": "frost"}, {"severity": 0}, {"severity": 6}, {"tries": 0}])
def test_a_corruption_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"valid values|must be"):
        Corruption(**{"kind": "fog", "severity": 1, **options})
