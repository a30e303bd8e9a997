"""What a run asks of a defense before it attacks it: every planted fault is found, and no sound defense is marked."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.clean import Clean
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.worst_of import WorstOf
from harness.checks import Use, gates
from harness.defense import Defense
from harness.evaluation.pending import load_images
from harness.quantity import Quantity
from harness.suite import load_suite
from helpers.sound import GloballyNoisy, Good, Noisy

pytestmark = pytest.mark.slow

X = (16 * torch.rand(8, 2, 5, 4, generator=torch.Generator().manual_seed(3))).round() / 16
PGD_RUN = Use(0, frozenset({"exact"}))
"""A run so short that only what a quick defense has for free is asked."""


class FunctionalDropout(Good):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(F.dropout(x, 0.1))


class PrivateGenerator(Good):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x + 0.01 * torch.randn(x.shape, generator=self.generator))


class DefaultRng(Good):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x + 0.01 * torch.from_numpy(np.random.default_rng().standard_normal(x.shape)).float())


class SystemRandom(Good):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x + 0.01 * random.SystemRandom().random())


class Clock(Good):
    def classify(self, x: Tensor) -> Tensor:
        torch.manual_seed(time.perf_counter_ns())
        return super().classify(x + 0.01 * torch.randn_like(x))


class DropoutInAList(Good):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Dropout(0.1)]

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(self.layers[0](x))


class BatchNormInAClosure(Good):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(2)
        self.normalised = lambda x: norm(x)

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(self.normalised(x))


class NoRunningStatistics(Good):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2, track_running_stats=False)

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(self.norm(x))


class FunctionalBatchNorm(Good):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(F.batch_norm(x, None, None, training=True))


class EvalOverridden(Good):
    """As when a wrapper forgets to hand eval() on."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def train(self, mode: bool = True) -> EvalOverridden:
        return self

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(self.drop(x))


class SeldomRandom(Good):
    """In one call of ten."""

    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return logits + 0.1 * torch.randn_like(logits) if float(torch.rand(1)) < 0.1 else logits


class SeldomRandomByTheSystem(Good):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * (1.1 if os.urandom(1)[0] < 50 else 1)


def off_the_grid(x: Tensor) -> Tensor:
    """Which images have pixels that are no multiples of 1/16, as those of clean digits all are: (N,) bool."""
    return ((16 * x).round() != 16 * x).flatten(1).any(1)


class RandomOffTheGrid(Good):
    def purify(self, x: Tensor) -> Tensor:
        return (x + off_the_grid(x).view(-1, 1, 1, 1) * 0.1 * torch.randn_like(x)).clamp(0, 1)


class UndefinedOffTheGrid(Good):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).masked_fill(off_the_grid(x)[:, None], torch.nan)


class ChangesAfterTwentyCalls(Good):
    calls = 0

    def classify(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().classify(x) * (1 if self.calls < 20 else 2)


class Drifts(Good):
    """Keeps a running mean of what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, 5, 4))

    def purify(self, x: Tensor) -> Tensor:
        self.seen = 0.99 * self.seen + 0.01 * x.mean(0)
        return (x + 0.1 * self.seen).clamp(0, 1)


class DividesByTheMaximum(Good):
    def purify(self, x: Tensor) -> Tensor:
        return x / x.max()


class Centres(Good):
    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return logits - 0.1 * logits.mean(0)


class NoiseByPosition(Good):
    """The same numbers at every call: the first image of a batch gets the first ones."""

    def purify(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        return (x + 0.1 * noise).clamp(0, 1)


class OtherwiseWhenAlone(Good):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * (1 if len(x) > 1 else 1.1)


class WritesIntoItsImages(Good):
    def purify(self, x: Tensor) -> Tensor:
        return x.mul_(0.8).add_(0.1)


class PretendsToBeRandom(Good):
    stochastic = True


class RandomBeyondControl(Good):
    stochastic = True

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.1 * torch.from_numpy(np.random.default_rng().standard_normal(x.shape)).float()).clamp(0, 1)


class SeldomBeyondControl(Noisy):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * (1.1 if os.urandom(1)[0] < 50 else 1)


class Detached(Good):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).detach()


class OtherwiseWithGradients(Good):
    """Shows attackers another function than it is judged by."""

    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return logits.flip(1) if x.requires_grad else logits


HONEST = "honest `stochastic`: stochastic = False, but two calls differ"
BATCH = "batch independence: an image's logits change"

FAULTS: dict[type[Defense], str] = {
    FunctionalDropout: HONEST,
    PrivateGenerator: HONEST,
    DefaultRng: HONEST,
    SystemRandom: HONEST,
    Clock: HONEST,
    DropoutInAList: "evaluation mode: a Dropout that is no submodule of the defense is in training mode",
    BatchNormInAClosure: "evaluation mode: a BatchNorm2d that is no submodule of the defense is in training mode",
    NoRunningStatistics: "evaluation mode: a BatchNorm2d `norm` keeps no running statistics",
    FunctionalBatchNorm: BATCH,
    EvalOverridden: "evaluation mode: a Dropout `drop` is in training mode and answers at random",
    SeldomRandom: "",
    SeldomRandomByTheSystem: "",
    RandomOffTheGrid: "same answers near the images: two calls on images with a little noise",
    UndefinedOffTheGrid: "same answers near the images: NaN or infinite logits for ",
    ChangesAfterTwentyCalls: "same answers over many calls: call ",
    Drifts: HONEST,
    DividesByTheMaximum: BATCH,
    Centres: BATCH,
    NoiseByPosition: BATCH,
    OtherwiseWhenAlone: BATCH,
    WritesIntoItsImages: "images left alone: forward changes the images it is given in place",
    PretendsToBeRandom: "honest `stochastic`: stochastic = True, but two draws agree exactly",
    RandomBeyondControl: "reproducible draws: the same seeds give logits that differ",
    SeldomBeyondControl: "",
    OtherwiseWithGradients: "same answers while gradients are taken: the logits are others",
    Detached: "gradient of classify: the logits are detached",
}
"""What a mark begins with; nothing where it depends on chance which rule sees it first."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_run_however_short_finds_the_planted_fault(fault: type[Defense]) -> None:
    marks = gates(fault().eval(), X, PGD_RUN)
    assert any(mark.startswith(FAULTS[fault]) for mark in marks), marks


@pytest.mark.parametrize("sound", [Good, Noisy, GloballyNoisy])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_sound_defenses_are_not_marked(sound: type[Defense], count: int) -> None:
    assert gates(sound().eval(), X[:count], Use(1e6, frozenset({"exact", "bpda"}))) == []


def test_gates_leave_the_generators_of_their_caller_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    gates(GloballyNoisy(), X, PGD_RUN)
    assert torch.equal(torch.rand(3), expected)


class Counted(Good):
    """Counts the images that it is asked about; `evaluations` each, as it says."""

    def __init__(self, evaluations: float) -> None:
        super().__init__()
        self.evaluations, self.asked = evaluations, 0

    def cost(self) -> float:
        return self.evaluations

    def classify(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return super().classify(x)


@pytest.mark.parametrize("passes", [0, 3_000, 20_000, 100_000])
def test_a_slow_defense_is_asked_no_more_than_a_hundredth_of_the_run(passes: float) -> None:
    defense = Counted(1000)
    assert gates(defense, X, Use(passes, frozenset({"exact"}))) == []
    always = 3 * len(X)
    assert defense.asked <= max(always, 0.01 * passes)


def test_a_longer_run_asks_a_slow_defense_more() -> None:
    class SlowCentres(Centres):
        def cost(self) -> float:
            return 1000.0

    assert gates(SlowCentres(), X, Use(0)) == []
    assert [mark.startswith(BATCH) for mark in gates(SlowCentres(), X, Use(20_000))] == [True]


@pytest.mark.parametrize("views", [frozenset(), frozenset({"exact"}), frozenset({"exact", "bpda"})])
def test_what_concerns_gradients_is_asked_where_attacks_take_them(views: frozenset) -> None:
    class Other(Detached):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.classify(x)

    rules = {mark.partition(":")[0] for mark in gates(Other(), X, Use(0, views))}
    assert ("gradient of classify" in rules) == bool(views)
    assert ("forward is classify(purify(x))" in rules) == ("bpda" in views)


def test_the_use_of_a_defense_adds_up_its_attacks() -> None:
    def pgd(**options: str) -> PGD:
        return PGD("Linf", Quantity("0.1"), steps=10, **options)

    defense = Noisy()
    cost = pgd().cost(3)
    one = 2 * 5 + cost.forwards + defense.backward_cost * cost.backwards
    assert Use.of(defense, [pgd()], images=7, classes=3, votes=5) == Use(7 * one, frozenset({"exact"}))
    inner = WorstOf([pgd(gradient="bpda"), pgd(gradient="blind")])
    assert Use.of(defense, [inner], 7, 3, 5).views == {"bpda", "blind"}
    without = [Clean(), Noise("Linf", Quantity("0.1"))]
    assert Use.of(defense, without, 7, 3, 5).views == frozenset()


def test_an_attack_that_cannot_tell_its_cost_does_not_stop_the_gates() -> None:
    class Careless(Clean):
        def cost(self, num_classes: int) -> None:  # type: ignore[override]
            raise RuntimeError("planted")

    assert Use.of(Good(), [Careless()], 7, 3, 5) == Use(7 * 2.0)


PLAN = load_suite(Path(__file__).parents[3] / "suites/digits/defenses.yaml")
ROWS = {cell.defense.name: cell.defense.build for cell in PLAN.cells}


CLEAN_IMAGES_ARE_LIKELY = "honest `stochastic`: stochastic = True, but two draws agree exactly on all 8 images"


@pytest.mark.parametrize("name", ROWS)
def test_no_defense_of_the_package_is_marked(name: str) -> None:
    """But for the one that purifies, and so draws noise for, unlikely images alone."""
    build: Callable[[], Defense] = ROWS[name]
    defense = build().eval().requires_grad_(False)
    length = 2e4 if defense.cost() < 100 else 1e3  # with all rules, or those that a short run asks
    expected = [CLEAN_IMAGES_ARE_LIKELY] if name == "likelihood_threshold" else []
    assert gates(defense, load_images(PLAN)[1].x[:8], Use(length, frozenset({"exact", "bpda"}))) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("name", ROWS)
def test_no_defense_of_the_package_is_marked_on_a_gpu(name: str) -> None:
    """Where kernels differ with the batch, and a convolution may add up in another order each time."""
    defense = ROWS[name]().eval().requires_grad_(False).cuda()
    assert gates(defense, load_images(PLAN)[1].x[:8].cuda(), Use(2e4, frozenset({"exact", "bpda"}))) == []
