from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.common.losses import LossName, margin
from attacks.pgd import PGD
from harness.attack import Adversarial
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threat import TOLERANCE
from helpers.linear import Linear, NoisyLinear, target_of

N, SHAPE = 60, (1, 4, 4)
Y = torch.zeros(N, dtype=torch.int64)
W = normal(torch.tensor([1, 2]), (16,))


def pgd(norm: str = "Linf", eps: str = "0.1", **options: Any) -> PGD:
    return PGD(norm, Quantity(eps), **options)  # type: ignore[arg-type]


def shifted(defense: Callable[..., Defense], x: Tensor, spread: float) -> Defense:
    """A two-class linear defense whose margins lie around the budget's reach."""
    return defense(W, torch.tensor([spread + ((W[1] - W[0]) * x.flatten(1)).sum(1).mean(), 0.0]))


def worst_linf(defense: Any, x: Tensor, eps: float) -> Tensor:
    """Largest margin z_1 - z_0 in the ball and the box: each pixel goes to its better end."""
    direction = (defense.weights[1] - defense.weights[0]).detach()
    low, high = ((x.flatten(1) + s).clamp(0, 1) for s in (-eps, eps))
    return torch.where(direction > 0, high, low) @ direction + defense.bias[1] - defense.bias[0]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_linf_verdicts_equal_the_closed_form_with_the_box_active(loss: str, momentum: float) -> None:
    x = (1.6 * uniform(torch.arange(N), SHAPE) - 0.3).clamp(0, 1)
    defense, attack = shifted(Linear, x, 0.5), pgd(loss=loss, momentum=momentum)
    worst = worst_linf(defense, x, 0.1)
    assert ((x == 0) | (x == 1)).float().mean() > 0.2
    assert 10 < (worst > 0).sum() < 50
    assert worst.abs().min() > 1e-4
    margins = margin(defense(attack.perturb(target_of(attack, defense, x), x, Y)), Y)
    assert (margins > 0).equal(worst > 0)
    assert torch.allclose(margins[worst < 0], worst[worst < 0], atol=1e-4)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_l2_verdicts_equal_the_closed_form_away_from_the_box(loss: str) -> None:
    x = 0.4 + 0.2 * uniform(torch.arange(N), SHAPE)
    defense, attack = shifted(Linear, x, 0.4), pgd("L2", "0.1", loss=loss, step_size=Quantity("0.05"))
    worst = margin(defense(x), Y) + 0.1 * (W[1] - W[0]).norm()
    assert 10 < (worst > 0).sum() < 50
    assert worst.abs().min() > 1e-4
    margins = margin(defense(attack.perturb(target_of(attack, defense, x), x, Y)), Y)
    assert (margins > 0).equal(worst > 0)
    assert torch.allclose(margins[worst < 0], worst[worst < 0], atol=1e-4)


def test_saturated_logits_blind_plain_cross_entropy_and_not_ours() -> None:
    x = 0.5 + 0.01 * uniform(torch.arange(N), SHAPE)
    weights = torch.stack([W[0], W[1], -W[0]])
    bias = -(weights * 0.5).sum(1) + torch.tensor([0.6, 0.0, -9.0])
    defense = Linear(1e4 * weights, 1e4 * bias)
    assert (defense(x).argmax(1) == 0).all()

    def accuracy(found: Tensor) -> float:
        return (defense(found).argmax(1) == 0).float().mean().item()

    def attacked(loss: str) -> Any:
        attack = pgd(loss=loss)
        return attack.perturb(target_of(attack, defense, x), x, Y)

    blinded = attacked("ce-plain")
    assert accuracy(blinded.images) == 1
    assert blinded.flags == () and blinded.remarks == (("in doubt: the gradient was zero throughout",),) * N
    assert [accuracy(attacked(loss)) for loss in ("ce", "dlr", "margin")] == [0, 0, 0]


@pytest.mark.parametrize("options", [{}, {"norm": "L2"}, {"momentum": 0.5, "restarts": 3}, {"early_stop": False}])
def test_results_do_not_depend_on_batch_composition(options: dict[str, Any]) -> None:
    x = uniform(torch.arange(N), SHAPE)
    defense, attack, seeds = shifted(Linear, x, 0.5), pgd(steps=8, **options), torch.arange(N) + 100
    together = attack.perturb(target_of(attack, defense, x, seeds), x, Y)
    some = torch.tensor([41, 7, 30, 2])
    apart = attack.perturb(target_of(attack, defense, x[some], seeds[some]), x[some], Y[some])
    assert torch.allclose(apart, together[some], atol=1e-6)


def test_another_seed_starts_elsewhere() -> None:
    x, defense, attack = torch.full((2, *SHAPE), 0.5), Linear(W, torch.tensor([50.0, 0.0])), pgd("L2", steps=1)
    first, second = attack.perturb(target_of(attack, defense, x, torch.tensor([1, 2])), x, Y[:2])
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"restarts": 3},
        {"random_start": False},
        {"norm": "L2", "momentum": 0.5},
        {"gradient": "bpda"},
        {"gradient": "blind"},
        {"gradient": "blind", "early_stop": False},
    ],
)
def test_cost_is_exact_for_an_image_that_is_never_fooled(options: dict[str, Any]) -> None:
    x = uniform(torch.arange(4), SHAPE)
    attack = pgd(steps=7, **options)
    target = target_of(attack, Linear(W, torch.tensor([50.0, 0.0])), x)
    attack.perturb(target, x, Y[:4])
    assert target.forwards.tolist() == [attack.cost(2).forwards] * 4
    assert target.backwards.tolist() == [attack.cost(2).backwards] * 4


def test_cost_counts_each_draw() -> None:
    x = uniform(torch.arange(4), SHAPE)
    attack = pgd(steps=7, eot=5, restarts=2)
    target = target_of(attack, NoisyLinear(W), x)
    attack.perturb(target, x, Y[:4])
    assert target.forwards.tolist() == [attack.cost(2).forwards] * 4 == [5 * 2 * 8] * 4
    assert target.backwards.tolist() == [attack.cost(2).backwards] * 4 == [5 * 2 * 7] * 4


def test_fooled_images_leave_a_deterministic_defense_and_restarts_skip_them() -> None:
    x = uniform(torch.arange(N), SHAPE)
    defense, attack = shifted(Linear, x, 0.5), pgd(restarts=2)
    target = target_of(attack, defense, x)
    fooled = defense(attack.perturb(target, x, Y)).argmax(1) != 0
    assert 5 < fooled.sum() < 55
    assert (target.forwards[~fooled] == 82).all()
    assert (target.forwards[fooled] < 41).all()


def test_no_image_leaves_a_stochastic_defense_on_a_lucky_draw() -> None:
    x = uniform(torch.arange(N), SHAPE)
    defense, attack = NoisyLinear(0 * W, torch.tensor([0.5, 0.0]), noise=1.0), pgd(steps=6)
    target = target_of(attack, defense, x)
    attack.perturb(target, x, Y)
    assert target.backwards.tolist() == [6] * N


@pytest.mark.slow
def test_an_attack_on_noise_finds_the_direction_under_it() -> None:
    x = torch.full((N, *SHAPE), 0.5)
    defense, attack = NoisyLinear(W, noise=0.05), pgd(eot=10, loss="margin")
    x_adv = attack.perturb(target_of(attack, defense, x), x, Y)
    expected = 0.1 * (W[1] - W[0]).sign().view(SHAPE)
    assert (x_adv - x - expected).abs().mean() < 0.01


class Wavy(Defense):
    """A margin with many local optima, and a log of everything that it was asked."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def classify(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        rival = (60 * x).sin().flatten(1).sum(1) - 16.5
        return torch.stack([torch.zeros_like(rival), rival], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_nothing_weaker_than_the_best_iterate_seen_is_returned(norm: str) -> None:
    x, defense, attack = uniform(torch.arange(5), SHAPE), Wavy(), pgd(norm, step_size=Quantity("0.07"), restarts=2)
    returned = attack.perturb(target_of(attack, defense, x), x, Y[:5])
    seen = torch.stack([margin(defense.classify(asked), Y[:5]) for asked in list(defense.asked)])
    assert (seen.argmax(0) != len(seen) - 1).any()
    assert margin(defense.classify(returned), Y[:5]).equal(seen.amax(0))


class Rounded(Defense):
    """Rounds pixels to halves before a linear classifier: a small step never survives it."""

    num_classes = 2

    def purify(self, x: Tensor) -> Tensor:
        return (2 * x).round() / 2

    def classify(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.01).to(x), (x - 0.5).flatten(1).sum(1)], dim=1)


def test_a_blind_attack_is_not_fooled_by_its_own_view() -> None:
    x, attack = torch.full((3, *SHAPE), 0.5), pgd(gradient="blind")
    defense = Rounded()
    target = target_of(attack, defense, x)
    x_adv = attack.perturb(target, x, Y[:3])
    assert (defense.classify(x_adv).argmax(1) == 1).all()
    assert (defense(x_adv).argmax(1) == 0).all()
    assert target.forwards.tolist() == [attack.cost(2).forwards] * 3


def test_a_blind_attack_stops_when_the_real_defense_is_fooled() -> None:
    x, attack = torch.full((3, *SHAPE), 0.5), pgd(eps="0.3", gradient="blind")
    target = target_of(attack, Rounded(), x)
    assert (Rounded()(attack.perturb(target, x, Y[:3])).argmax(1) == 1).all()
    assert (target.backwards < 40).all()


class Broken(Defense):
    """Linear, but dark images have no finite gradient."""

    num_classes = 2

    def classify(self, x: Tensor) -> Tensor:
        total = (x - 0.5).flatten(1).sum(1)
        spoiled = torch.where(x.flatten(1).mean(1) < 0.25, 0 * total, 1).sqrt()
        return torch.stack([torch.full_like(total, 9.0), total + spoiled], dim=1)


def test_a_gradient_that_is_nan_is_remembered_and_the_others_are_attacked() -> None:
    x = torch.stack([torch.full(SHAPE, 0.1), torch.full(SHAPE, 0.9)])
    attack = pgd(steps=10, eps="0.05")
    target = target_of(attack, Broken(), x)
    x_adv = Adversarial.of(attack.perturb(target, x, Y[:2])).images
    assert target.met.reasons() == ["the gradient of the attack was NaN or infinite, on a perturbed image", None]
    assert torch.allclose(x_adv[1], torch.full(SHAPE, 0.95))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "dlr", "ce-targeted", "dlr-targeted", "margin"])
def test_an_attack_is_as_strong_whatever_the_scale_of_the_logits(norm: str, loss: LossName) -> None:
    """z -> c z leaves every decision as it is, and so the images that can be fooled."""
    weights = normal(torch.arange(5) + 3, (16,))
    x = uniform(torch.arange(40), SHAPE)
    y = Linear(weights)(x).argmax(1)

    def standing(scale: float) -> list[bool]:
        defense, attack = Linear(scale * weights), pgd(norm, "0.2", steps=10, loss=loss, early_stop=False)
        return (defense(attack.perturb(target_of(attack, defense, x), x, y)).argmax(1) == y).tolist()

    scales = 0.05, 1e-4, 1e-13, 1e-25
    assert all(standing(scale) == standing(scales[0]) for scale in scales)
    assert 0 < sum(standing(1e-13)) < 40


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("eps", ["0", "8/255", "0.5", "1"])
def test_every_image_is_within_its_budget(norm: str, eps: str) -> None:
    x, attack = (1.4 * uniform(torch.arange(8), SHAPE) - 0.2).clamp(0, 1), pgd(norm, eps, steps=5, momentum=0.9)
    assert attack.threat.violation(x, attack.perturb(target_of(attack, Wavy(), x), x, Y[:8])).max() <= TOLERANCE


def test_the_inputs_are_left_alone() -> None:
    x = uniform(torch.arange(3), SHAPE)
    before, attack = x.clone(), pgd(steps=3)
    attack.perturb(target_of(attack, Wavy(), x), x, Y[:3])
    assert x.equal(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps and restarts"),
        ({"restarts": 0}, "steps and restarts"),
        ({"restarts": 2, "random_start": False}, "random_start: true"),
        ({"step_size": Quantity(0)}, "step_size is 0"),
        ({"loss": "hinge"}, "valid losses: ce, ce-plain, dlr, margin"),
        ({"eps": "8"}, "write 8/255"),
        ({"eps": "-1/255"}, "must not be negative"),
        ({"norm": "L3"}, "valid norms: Linf, L2"),
        ({"eot": 0}, "eot must be at least 1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgd(**options)


def test_dlr_on_two_classes_is_refused_before_the_run() -> None:
    assert "at least 3 classes" in str(pgd(loss="dlr").unsuitable(Linear(W)))
    assert pgd(loss="margin").unsuitable(Linear(W)) is None
