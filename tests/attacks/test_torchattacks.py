from __future__ import annotations

import math
import random
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.common.losses import margin
from attacks.torchattacks import BUDGETS, TorchAttacks
from harness.attack import Adversarial
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import TOLERANCE
from helpers.linear import Linear, NoisyLinear, target_of

pytestmark = pytest.mark.slow

torchattacks = pytest.importorskip("torchattacks")


N, SHAPE = 8, (3, 8, 8)
X = uniform(torch.arange(N), SHAPE)


class Conv(Defense):
    """Two convolutions and a mean over the image, without a parameter. It remembers the range of what it saw."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = normal(torch.arange(6), (3, 3, 3)), 3 * normal(torch.arange(10) + 9, (6, 3, 3))
        self.low, self.high, self.trained = math.inf, -math.inf, False

    def classify(self, x: Tensor) -> Tensor:
        self.low, self.high = min(self.low, float(x.detach().min())), max(self.high, float(x.detach().max()))
        self.trained |= self.training
        return F.conv2d(torch.tanh(F.conv2d(x, self.first)), self.second).mean((2, 3))


def attack(name: str = "PGD", norm: str = "Linf", eps: str = "8/255", **options: Any) -> TorchAttacks:
    return TorchAttacks(name, norm, Quantity(eps), **options)  # type: ignore[arg-type]


def run(attack: TorchAttacks, target: Target, x: Tensor, y: Tensor) -> Adversarial:
    found = attack.perturb(target, x, y)
    assert attack.threat.violation(x, found.images).max() <= TOLERANCE
    return found


@pytest.mark.parametrize(
    ("name", "norm", "passed_on", "arguments"),
    [
        ("PGD", "Linf", {"eps": 0.05}, {"alpha": 0.01, "steps": 5, "random_start": False}),
        ("PIFGSM", "Linf", {"max_epsilon": 0.05}, {"num_iter_set": 3}),
        ("PGDL2", "L2", {"eps": 2.0}, {"steps": 4, "random_start": False}),
        ("APGD", "Linf", {"eps": 0.05, "norm": "Linf"}, {"steps": 5, "seed": 3}),
        ("FAB", "L2", {"eps": 2.0, "norm": "L2"}, {"steps": 5, "seed": 3}),
    ],
)
def test_images_are_the_librarys_own_with_budget_and_norm_passed_on(
    name: str, norm: str, passed_on: dict[str, Any], arguments: dict[str, Any]
) -> None:
    defense, ours = (
        Conv(),
        attack(name, norm, str(*{passed_on.get(key) for key in BUDGETS} - {None}), arguments=arguments),
    )
    y = defense(X).argmax(1)
    theirs = getattr(torchattacks, name)(defense, **passed_on, **arguments)
    theirs.set_device(torch.device("cpu"))
    images = theirs(X, y).detach()
    within = ours.threat.violation(X, images) <= TOLERANCE
    found = run(ours, target_of(ours, defense, X), X, y).images
    assert torch.allclose(found[within], images[within], rtol=0, atol=1e-6)
    assert (found - X).abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["CW", "DeepFool", "EADEN"])
def test_images_of_minimum_norm_attacks_are_projected_and_counted(name: str, norm: str) -> None:
    defense = Conv()
    y = defense(X).argmax(1)
    wide, tight = (
        attack(name, norm, eps, arguments={"steps": 20} if name == "DeepFool" else {})
        for eps in ("1" if norm == "Linf" else "50", "0.001")
    )
    free = run(wide, target_of(wide, defense, X), X, y)
    assert free.flags == ()
    moved = tight.threat.size(X, free.images) > 0.001
    found = run(tight, target_of(tight, defense, X), X, y)
    assert moved.any()
    assert found.flags == (f"torchattacks: {moved.sum()} of {N} images projected",)
    assert torch.allclose(
        found.images, torch.where(moved.view(-1, 1, 1, 1), tight.threat.project(X, free.images), free.images)
    )


@given(
    name=st.sampled_from(["PGD", "FFGSM", "GN", "CW", "DeepFool", "FAB", "PGDL2", "Square", "Pixle", "NIFGSM"]),
    seed=st.integers(0, 10**6),
    eps=st.sampled_from(["0", "1e-4", "8/255", "0.7"]),
    norm=st.sampled_from(["Linf", "L2", "L1"]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
@settings(deadline=None, max_examples=30)
def test_no_image_violates_its_budget(name: str, seed: int, eps: str, norm: str, scale: float) -> None:
    x = (1.6 * uniform(torch.arange(3) + seed, (1, 6, 6)) - 0.3).clamp(0, 1)
    defense = Linear(scale * normal(torch.arange(3) - seed, (36,)))
    fixed = {"PGD": "Linf", "FFGSM": "Linf", "NIFGSM": "Linf", "PGDL2": "L2"}
    few = {
        "CW": {"steps": 5},
        "DeepFool": {"steps": 5},
        "Square": {"n_queries": 5},
        "FAB": {"steps": 3},
        "PGD": {"steps": 3},
        "NIFGSM": {"steps": 3},
    }
    few |= {"Pixle": {"restarts": 2, "max_iterations": 2, "x_dimensions": [1, 2], "y_dimensions": [1, 2]}}
    norm = fixed.get(name, "L2" if norm == "L1" and name in ("FAB", "Square") else norm)
    ours = attack(name, norm, eps, arguments=few.get(name))
    found = ours.perturb(Target(defense, x, torch.arange(3) + seed), x, defense(x).argmax(1))
    finite = torch.isfinite(found.images).flatten(1).all(1)
    violation = ours.threat.violation(x, found.images)
    assert (violation[finite] <= TOLERANCE).all()
    assert torch.isinf(violation[~finite]).all()


@pytest.mark.parametrize(
    "name", ["FGSM", "TPGD", "SINIFGSM", "VNIFGSM", "PGDRS", "APGD", "APGDT", "FAB", "DeepFool", "OnePixel"]
)
def test_cost_is_that_of_an_image_that_is_never_fooled(name: str) -> None:
    weights, lead = 0.01 * normal(torch.arange(10), (math.prod(SHAPE),)), 10.0 * (torch.arange(10) == 0)
    for ours, make in ((attack(name), Linear), (attack(name, eot=3), NoisyLinear)):
        target = target_of(ours, make(weights, lead), X[:2])
        run(ours, target, X[:2], torch.zeros(2, dtype=torch.int64))
        assert target.forwards.tolist() == [ours.cost(10).forwards] * 2
        assert target.backwards.tolist() == [ours.cost(10).backwards] * 2


@pytest.mark.parametrize(
    ("name", "arguments", "forwards", "backwards"),
    [
        ("CW", {"steps": 30, "lr": 0.2}, 30, 30),
        ("EADEN", {"binary_search_steps": 2, "max_iterations": 10}, 1 + 2 * 2 * 10, 2 * 10),
    ],
)
def test_cost_counts_on_patience(name: str, arguments: dict[str, Any], forwards: int, backwards: int) -> None:
    cost = attack(name, arguments=arguments).cost(10)
    assert (cost.forwards, cost.backwards) == (forwards, backwards)


def test_the_cost_of_what_cannot_be_rehearsed_is_not_a_number() -> None:
    assert math.isnan(attack("APGDT").cost(3).forwards)


def test_passes_are_counted_for_the_image_they_are_spent_on() -> None:
    defense, ours = Conv(), attack("DeepFool", "L2", "5")
    y = defense(X).argmax(1)
    y[3] = (y[3] + 1) % 10
    target = target_of(ours, defense, X)
    run(ours, target, X, y)
    assert target.forwards[3] == 1
    assert target.backwards[3] == 0
    assert (target.backwards[torch.arange(N) != 3] >= 10).all()


@pytest.mark.parametrize("name", ["NIFGSM", "PGDRS", "VMIFGSM", "GN"])
def test_a_defense_sees_images_only_and_stays_in_its_mode(capfd: pytest.CaptureFixture[str], name: str) -> None:
    defense = Conv().eval()
    y, ours = defense(X).argmax(1), attack(name, eps="0.3")
    run(ours, target_of(ours, defense, X), X, y)
    assert defense.low >= 0
    assert defense.high <= 1
    assert not defense.trained
    assert not defense.training
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("gradient", ["exact", "bpda", "adjoint", "blind"])
def test_every_view_can_be_attacked(gradient: Any) -> None:
    class Purified(Conv):
        def purify(self, x: Tensor) -> Tensor:
            return (x * 16).round() / 16

        def purify_adjoint(self, x: Tensor) -> Tensor:
            return x + (self.purify(x) - x).detach()

    defense, ours = Purified(), attack("MIFGSM", eps="0.1", gradient=gradient)
    y = defense(X).argmax(1)
    margins = margin(defense(run(ours, target_of(ours, defense, X), X, y).images), y)
    assert gradient == "exact" or (margins > margin(defense(X), y)).all()


def test_results_are_a_function_of_the_seeds_and_leave_global_state_alone() -> None:
    defense, ours = Conv(), attack("GN")
    y = defense(X).argmax(1)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    def images(seed: int) -> Tensor:
        return run(ours, target_of(ours, defense, X[:2], torch.arange(2) + seed), X[:2], y[:2]).images

    assert images(0).equal(images(0))
    assert not images(1).equal(images(0))
    assert torch.random.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_the_library_is_told_the_number_of_classes_and_a_seed() -> None:
    library = attack("APGDT")._library(torch.nn.Linear(1, 1), classes=6, seed=77)
    assert (library.n_target_classes, library.seed) == (5, 77)
    assert attack("AutoAttack")._library(torch.nn.Linear(1, 1), classes=6, seed=77).seed == 77  # not the time
    assert attack("APGDT", arguments={"seed": 3})._library(torch.nn.Linear(1, 1), classes=6, seed=77).seed == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "pgd"}, "torchattacks has no attack named 'pgd'.*Did you mean 'PGD'"),
        ({"name": "DeepFoul"}, "Did you mean 'DeepFool'"),
        ({"name": "MultiAttack"}, "torchattacks has no attack"),
        ({"arguments": {"stpes": 3}}, "PGD has no 'stpes' among its arguments.*Did you mean 'steps'"),
        ({"arguments": {"eps": 1}}, "Set `norm` and `eps` beside `name`"),
        ({"arguments": {"steps": "ten"}}, "steps among the arguments is 'ten'"),
        ({"arguments": {"random_start": 1}}, "random_start among the arguments is 1"),
        ({"name": "AutoAttack", "arguments": {"version": "fast"}}, "Not valid version"),
        ({"norm": "L2"}, "PGD bounds the Linf norm; set norm: Linf"),
        ({"name": "PGDL2"}, "PGDL2 bounds the L2 norm; set norm: L2"),
        ({"eps": "8"}, "write 8/255"),
        ({"eot": 0}, "eot must be at least 1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError)) as caught:
        attack(**options)
    assert re.search(message, str(caught.value))


def test_a_missing_library_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(UserError, match=r"not installed.*harness doctor"):
        attack()


def test_what_would_mean_nothing_is_refused_before_the_run() -> None:
    three, ten, stochastic = Linear(torch.zeros(3, 4)), Linear(torch.zeros(10, 4)), NoisyLinear(torch.zeros(10, 4))
    assert "at least 4 classes, not 3" in str(attack("APGDT").unsuitable(three))
    assert attack("APGDT").unsuitable(ten) is None
    assert "single draw of a stochastic defense" in str(attack("Square").unsuitable(stochastic))
    assert attack("Square", eot=5).unsuitable(stochastic) is None
    assert attack("PGD").unsuitable(stochastic) is None


def test_a_description_names_the_librarys_attack_as_it_was_written() -> None:
    ours = attack("PGD", arguments={"alpha": "2/255", "steps": 3}, gradient="bpda")
    assert ours.describe() == "torchattacks, bpda, PGD(alpha=2/255, steps=3)"
    assert ours.arguments["alpha"] == 2 / 255
