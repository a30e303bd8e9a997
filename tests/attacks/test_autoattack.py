from __future__ import annotations

import logging
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyautoattack
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks import autoattack as module
from attacks.autoattack import AutoAttack
from attacks.common.square_ahead import WASTED
from harness.attack import Adversarial
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import derive, normal, uniform
from harness.target import Target
from harness.threat import TOLERANCE
from helpers.linear import Linear, NoisyLinear, target_of

pytestmark = pytest.mark.slow


SHAPE = (1, 6, 6)


def autoattack(norm: str = "Linf", eps: str = "8/255", **options: Any) -> AutoAttack:
    return AutoAttack(norm, Quantity(eps), **options)  # type: ignore[arg-type]


def custom(*attacks: str, **options: Any) -> AutoAttack:
    return autoattack(version="custom", attacks=list(attacks), **options)


def sine(shape: tuple[int, ...], phase: float) -> Tensor:
    """The fill rule of the golden files, in short: v_i = sin(0.37 i + phase) * sqrt(2 / fan_in)."""
    count = torch.Size(shape).numel()
    values = (0.37 * torch.arange(count, dtype=torch.float64) + phase).sin() * (2 * shape[0] / count) ** 0.5
    return values.float().view(shape)


class Conv(Defense):
    """A small convolutional network with weights by rule."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", sine((8, 1, 3, 3), 1.4))
        self.register_buffer("second", sine((10, 8 * 36), 2.7))

    def classify(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(2 * x - 1, self.first, padding=1)).flatten(1) @ self.second.T


def batch(defense: Defense, n: int) -> tuple[Tensor, Tensor]:
    x = uniform(torch.arange(n) + 9, SHAPE)
    return x, defense(x).argmax(1).detach()


def unbeatable(kind: type[Linear], n: int, classes: int = 10) -> tuple[Defense, Tensor, Tensor]:
    """A defense that no attack within reach fools, images, and labels."""
    defense = kind(0.01 * normal(torch.arange(classes), (36,)), 10 * (torch.arange(classes) == 1).float())
    return defense, uniform(torch.arange(n), SHAPE), torch.full((n,), 1)


def run(attack: AutoAttack, target: Target, x: Tensor, y: Tensor) -> Adversarial:
    found = attack.perturb(target, x, y)
    assert isinstance(found, Adversarial)
    assert attack.threat.violation(x, found.images).max() <= TOLERANCE
    return found


def stock_images(
    attack: AutoAttack, target: Target, x: Tensor, y: Tensor, queries: int, attacks: Sequence[str] = ()
) -> Tensor:
    """What the package itself returns at the same seed. attacks: those it runs, if not all of the standard version."""
    eps, seed = float(attack.threat.eps), derive("autoattack", *target.seeds.tolist())
    stock = pyautoattack.AutoAttack(target.defense, norm=attack.norm, eps=eps, seed=seed)
    stock.square.n_queries = queries
    stock.attacks_to_run = list(attacks) or stock.attacks_to_run
    return stock.run_standard_evaluation(x, y, batch_size=len(x))[0]


def same_verdicts(defense: Defense, x: Tensor, y: Tensor, images: Tensor, stock: Tensor) -> None:
    """Image by image. One that withstands is as it was; one that does not may be another than the package's."""
    robust = defense(images).argmax(1) == y
    assert robust.equal(defense(stock).argmax(1) == y)
    assert images[robust].equal(x[robust]) and stock[robust].equal(x[robust])
    assert 0 < robust.sum() < len(x)


@pytest.mark.long
def test_standard_has_the_stock_packages_verdicts_at_its_published_cost_or_less() -> None:
    defense, attack = Conv(), autoattack("Linf", "0.01")
    x, y = batch(defense, 8)
    target = target_of(attack, defense, x)
    images = run(attack, target, x, y).images
    same_verdicts(defense, x, y, images, stock_images(attack, target, x, y, queries=5000))
    robust = defense(images).argmax(1) == y
    assert (target.forwards[robust] <= 7864 + 5000 // WASTED).all() and (target.backwards[robust] == 1910).all()
    assert (target.forwards[~robust] < 7864).all()
    assert (attack.cost(10).forwards, attack.cost(10).backwards) == (7864, 1910)


@pytest.mark.long
def test_a_custom_list_is_the_stock_package_but_for_what_is_overridden() -> None:
    defense = Conv()
    attack = custom("apgd-ce", "apgd-t", "fab-t", "square", norm="L2", eps="0.05", square_queries=50)
    x, y = batch(defense, 8)
    target = target_of(attack, defense, x)
    images = run(attack, target, x, y).images
    same_verdicts(defense, x, y, images, stock_images(attack, target, x, y, queries=50))


@pytest.mark.long
def test_l1_is_the_stock_package_too() -> None:
    defense = Conv()
    attack = custom("apgd-ce", "apgd-t", "square", norm="L1", eps="0.3", square_queries=50, apgd_steps=100)
    x, y = batch(defense, 6)
    target = target_of(attack, defense, x)
    images = run(attack, target, x, y).images
    library = attack._library(target, attack.stages(False), 10, 0, torch.device("cpu"))
    stock = pyautoattack.AutoAttack(defense, norm="L1", eps=0.3, seed=derive("autoattack", *target.seeds.tolist()))
    stock.attacks_to_run, stock.square.n_queries = library.attacks_to_run, 50
    same_verdicts(defense, x, y, images, stock.run_standard_evaluation(x, y, batch_size=6)[0])


class Normalised(Conv):
    """With a batch normalisation, which the attack's copy does without."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.convolution.weight.data, self.convolution.bias.data = self.first, sine((8,), 0.3)
        self.norm.running_mean, self.norm.running_var = sine((8,), 2.1), 1 + sine((8,), 0.7).abs()
        self.eval().requires_grad_(False)

    def classify(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(2 * x - 1))).flatten(1) @ self.second.T


def test_on_a_faster_copy_of_the_defense_it_has_the_stock_packages_verdicts() -> None:
    attacks = ("apgd-ce", "apgd-t", "square")
    defense, attack = Normalised(), custom(*attacks, eps="0.2", square_queries=200)
    x, y = batch(defense, 8)
    images = run(attack, target_of(attack, defense, x), x, y).images
    stock = stock_images(attack, target_of(attack, defense, x), x, y, queries=200, attacks=attacks)
    same_verdicts(defense, x, y, images, stock)


def test_what_only_misleads_the_faster_copy_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is wrong about every image, so that on it alone none would be attacked."""
    defense, attack = Conv(), custom("apgd-ce", apgd_steps=5, eps="0.02")
    x, y = batch(defense, 4)
    expected = run(attack, target_of(attack, defense, x), x, y)
    (never, *_) = {*range(10)} - {*y.tolist()}
    wrong = Linear(torch.zeros(10, 36), F.one_hot(torch.tensor(never), 10).float()).requires_grad_(False)
    monkeypatch.setattr(module, "folded", lambda *_: wrong)
    assert (wrong(x).argmax(1) != y).all() and not expected.images.equal(x)
    found = run(attack, target_of(attack, defense, x), x, y)
    assert found.images.equal(expected.images) and found.flags == expected.flags


UNRELATED = {"model", "predict", "logger", "seed", "device", "threat", "aims", "leaving"}
"""What an attack holds beside them; the last three are those of our own FAB."""


def hyperparameters(attack: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(attack).items() if k not in UNRELATED}


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_versions_have_the_official_hyperparameters(norm: str) -> None:
    for version, make in [("standard", Linear), ("plus", Linear), ("rand", NoisyLinear)]:
        attack = autoattack(norm, version=version)
        defense = make(normal(torch.arange(10), (36,)))
        target = target_of(attack, defense, uniform(torch.arange(2), SHAPE))
        ours = attack._library(target, attack.stages(defense.stochastic), 10, 0, torch.device("cpu"))
        stock = pyautoattack.AutoAttack(defense, norm=norm, eps=float(attack.threat.eps), seed=0, version=version)
        assert ours.attacks_to_run == stock.attacks_to_run
        assert (ours.version == "rand") == (stock.version == "rand")  # all that the library asks of it
        for name in ("apgd", "apgd_targeted", "fab", "square"):
            official, mine = hyperparameters(getattr(stock, name)), hyperparameters(getattr(ours, name))
            if version != "rand" or name == "apgd":  # rand leaves the others, which it does not run, unset
                assert mine == official


@pytest.mark.parametrize(
    ("attacks", "options", "classes"),
    [
        (["apgd-ce"], {}, 10),
        (["apgd-dlr"], {"apgd_steps": 7, "apgd_restarts": 2}, 3),
        (["apgd-t"], {"apgd_steps": 5}, 4),
        (["apgd-t"], {"apgd_steps": 5, "apgd_restarts": 2}, 12),
        (["fab"], {}, 3),
        (["fab-t"], {}, 3),
        (["square"], {"square_queries": 30}, 2),
        (["apgd-ce", "apgd-dlr", "square"], {"apgd_steps": 5, "square_queries": 30, "norm": "L2"}, 10),
        (["apgd-ce", "apgd-t", "fab-t", "square"], {"apgd_steps": 10, "square_queries": 30, "norm": "L1"}, 10),
    ],
)
def test_cost_is_exact_for_an_image_that_is_never_fooled(
    attacks: list[str], options: dict[str, Any], classes: int
) -> None:
    attack = custom(*attacks, **options)
    defense, x, y = unbeatable(Linear, 3, classes)
    target = target_of(attack, defense, x)
    assert run(attack, target, x, y).images.equal(x)
    assert target.forwards.tolist() == [attack.cost(classes).forwards] * 3
    assert target.backwards.tolist() == [attack.cost(classes).backwards] * 3


def test_some_images_take_more_than_one_that_is_never_fooled_and_none_exceeds_the_limit() -> None:
    attack = custom("apgd-t", "square", eps="3/255", apgd_steps=10, square_queries=60)
    defense = Conv()
    x, y = batch(defense, 48)
    target = target_of(attack, defense, x)
    run(attack, target, x, y)
    cost, limit = attack.cost(10), attack.cost_limit(10)
    assert (target.forwards > cost.forwards).any()
    assert (target.forwards <= limit.forwards).all() and (target.backwards <= limit.backwards).all()
    assert limit.forwards < 20 * cost.forwards


def test_plus_costs_what_it_says() -> None:
    attack = autoattack(version="plus")
    attack.apgd_steps, attack.square_queries = 5, 20
    defense, x, y = unbeatable(Linear, 2, 4)
    target = target_of(attack, defense, x)
    assert run(attack, target, x, y).images.equal(x)
    assert target.forwards.tolist() == [attack.cost(4).forwards] * 2
    assert target.backwards.tolist() == [attack.cost(4).backwards] * 2


@pytest.mark.parametrize("version", ["rand", "auto"])
def test_rand_averages_draws_and_costs_what_it_says(version: str) -> None:
    defense, x, y = unbeatable(NoisyLinear, 2)
    attack = autoattack(version="rand", eot=2)
    assert autoattack(version=version).eot == 20
    target = target_of(attack, defense, x)
    run(attack, target, x, y)
    assert target.forwards.tolist() == [attack.cost(10).forwards] * 2 == [3 + 2 * (2 + 2 * 101)] * 2
    assert target.backwards.tolist() == [attack.cost(10).backwards] * 2 == [2 * 2 * 101] * 2


def test_auto_is_standard_or_rand_as_the_defense_asks() -> None:
    attack = autoattack(version="auto")
    assert attack.stages(stochastic=False) == autoattack().stages(stochastic=False)
    assert attack.stages(stochastic=True) == autoattack(version="rand").stages(stochastic=True)
    assert attack.cost(10).forwards >= max(autoattack(version=v).cost(10).forwards for v in ("standard", "rand"))
    assert attack.cost(10).backwards >= max(autoattack(version=v).cost(10).backwards for v in ("standard", "rand"))


def test_a_stochastic_defense_is_refused_where_one_draw_would_decide() -> None:
    stochastic, deterministic = (make(normal(torch.arange(10), (36,))) for make in (NoisyLinear, Linear))
    for attack in (autoattack(), custom("apgd-ce"), autoattack(version="rand", eot=1)):
        assert "version: rand, or pgd with eot" in str(attack.unsuitable(stochastic))
        assert attack.unsuitable(deterministic) is None
    for attack in (autoattack(version="rand"), autoattack(version="auto"), custom("apgd-ce", eot=10)):
        assert attack.unsuitable(stochastic) is None


def test_too_few_classes_are_refused_before_the_run_or_at_its_start() -> None:
    defense, x, y = unbeatable(Linear, 2, classes=3)
    assert "apgd-t needs at least 4 classes, not 3" in str(autoattack().unsuitable(defense))
    assert custom("apgd-dlr").unsuitable(defense) is None
    defense.num_classes = None
    assert autoattack().unsuitable(defense) is None
    with pytest.raises(UserError, match="apgd-t needs at least 4 classes"):
        autoattack().perturb(target_of(autoattack(), defense, x), x, y)


def test_images_too_small_for_square_in_l2_are_refused() -> None:
    x, attack = torch.full((1, 1, 4, 4), 0.5), custom("square", norm="L2")
    with pytest.raises(UserError, match="at least 5 pixels high"):
        attack.perturb(target_of(attack, Linear(torch.zeros(2, 16)), x), x, torch.tensor([0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "custom", "attacks": ["apgd"]}, "'apgd' is not an attack.*apgd-ce, apgd-dlr, apgd-t, fab, fab-t"),
        ({"version": "custom"}, "needs attacks"),
        ({"version": "custom", "attacks": []}, "needs attacks"),
        ({"version": "best"}, "valid versions: standard, plus, rand, auto, custom"),
        ({"attacks": ["square"]}, "attacks would change what version standard means"),
        ({"version": "rand", "apgd_steps": 10}, "apgd_steps would change what version rand means"),
        ({"eot": 5}, "version standard has no eot"),
        ({"version": "custom", "attacks": ["square"], "square_queries": 0}, "square_queries must be at least 1"),
        ({"version": "rand", "eot": 0}, "eot must be at least 1"),
        ({"eps": "8"}, "write 8/255"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        autoattack(**options)


def test_results_are_a_function_of_the_seeds_and_leave_global_state_alone() -> None:
    defense, attack = Conv(), custom("apgd-ce", "square", apgd_steps=5, square_queries=20)
    x, y = batch(defense, 4)

    def images(seed: int) -> Tensor:
        return run(attack, target_of(attack, defense, x, torch.arange(4) + seed), x, y).images

    logger = logging.getLogger("auto-attack")
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    settings = logger.level, logger.propagate, list(logger.handlers)
    first = images(0)
    assert images(0).equal(first)
    assert not images(1).equal(first)
    assert torch.random.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert (logger.level, logger.propagate, list(logger.handlers)) == settings


def test_a_debuggers_trace_function_is_put_back() -> None:
    defense, x, y = unbeatable(Linear, 1)
    attack, previous = custom("apgd-ce", apgd_steps=1), sys.gettrace()

    def trace(*event: object) -> None:
        return None

    sys.settrace(trace)
    try:
        run(attack, target_of(attack, defense, x), x, y)
        found = sys.gettrace()
    finally:
        sys.settrace(previous)
    assert found is trace


class Softmaxed(Conv):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).softmax(1)


class Flat(Conv):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).detach().round() + 0 * x.sum()


class Dishonest(Conv):
    """Draws noise and does not say so."""

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) + torch.rand(len(x), 10)


class Optimising(Conv):
    def purify(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(super().classify(start).sum(), start)
        return x - 1e-3 * grad


@pytest.mark.parametrize(
    ("defense", "flag"),
    [
        (Softmaxed, "outputs seem to be probabilities"),
        (Flat, "zero gradients"),
        (Dishonest, "seems randomised"),
        (Optimising, "seems to optimise at test time"),
        (Conv, None),
    ],
)
def test_the_librarys_warnings_become_flags(
    capfd: pytest.CaptureFixture[str], defense: type[Defense], flag: str | None
) -> None:
    attack = custom("apgd-dlr", apgd_steps=1)
    x, y = batch(Conv(), 3)
    flags = run(attack, target_of(attack, defense(), x), x, y).flags
    assert flags == () if flag is None else any(flag in f for f in flags)
    assert len(set(flags)) == len(flags)
    assert capfd.readouterr() == ("", "")


def test_a_defense_is_not_blamed_for_the_one_checked_before_it() -> None:
    attack = custom("apgd-dlr", apgd_steps=1)
    x, y = batch(Conv(), 3)
    flags = [run(attack, target_of(attack, defense, x), x, y).flags for defense in (Optimising(), Conv())]
    assert flags[0] and not flags[1]


def test_a_description_says_which_attacks_ran() -> None:
    assert "standard" in autoattack().describe()
    assert "apgd-dlr, 100 APGD steps" in custom("apgd-dlr").describe()
