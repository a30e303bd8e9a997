"""Whatever is not finite, wherever an attack meets it, makes an error of that image and leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.lagrange import Lagrange
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.stadv import StAdv
from attacks.torchattacks import TorchAttacks
from attacks.transfer import Transfer
from attacks.worst_of import WorstOf
from harness.attack import Attack
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.evaluation.seeds import Seeds
from harness.evaluation.shard import evaluate, predict_clean
from harness.evaluation.task import ShardTask
from harness.guard.nonfinite import NonFinite
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.results.record import Record
from harness.target import Target

pytestmark = pytest.mark.slow

N = 6
EPS = Quantity("0.05")
SPOILED = torch.tensor([1, 4])
X = 0.2 + 0.5 * uniform(torch.arange(N) + 7, (1, 6, 6))
X[SPOILED, 0, 0, 0] = 0.9  # by which the defenses below know them, however they are perturbed
Y = torch.zeros(N, dtype=torch.int64)

ATTACKS: dict[str, Callable[[], Attack]] = {
    "noise": lambda: Noise("Linf", EPS, tries=3),
    "stadv": lambda: StAdv(steps=3),
    "stadv, last": lambda: StAdv(steps=3, keep="last"),
    "pgd": lambda: PGD("Linf", EPS, steps=3),
    "pgd, targeted": lambda: PGD("L2", EPS, steps=3, loss="margin-targeted"),
    "apgd": lambda: APGD("Linf", EPS, steps=5, loss="ce"),
    "bpda": lambda: APGD("Linf", EPS, steps=5, gradient="bpda"),
    "worst_of": lambda: WorstOf([Noise("Linf", EPS, tries=2), PGD("Linf", EPS, steps=2)]),
    "apgd-ce": lambda: AutoAttack("Linf", EPS, version="custom", attacks=["apgd-ce"], apgd_steps=5),
    "apgd-dlr": lambda: AutoAttack("L2", EPS, version="custom", attacks=["apgd-dlr"], apgd_steps=5),
    "fab": lambda: AutoAttack("Linf", EPS, version="custom", attacks=["fab"]),
    "square": lambda: AutoAttack("Linf", EPS, version="custom", attacks=["square"], square_queries=20),
    "torchattacks": lambda: TorchAttacks("PGD", "Linf", EPS, {"steps": 3}),
    "lagrange": lambda: Lagrange("Linf", EPS, steps=3),
}
BLACK_BOX = ("noise", "square")
"""Attacks that ask for no gradient."""

WITHIN = [name for name in ATTACKS if name != "fab"]
"""Attacks that ask about nothing outside the budget. FAB makes images of the others that look like the spoiled ones."""


class Steady(Defense):
    """Four classes, of which the first is out of reach. What a subclass makes of perturbed images of dark corner."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", 0.01 * normal(torch.arange(4), (36,)))
        self.register_buffer("lead", torch.tensor([5.0, 0.0, 0.5, 1.0]))

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T + self.lead

    def energy(self, x: Tensor) -> Tensor:
        return (x - 0.5).square().flatten(1).sum(1)


def spoiled(x: Tensor) -> Tensor:
    """Which of x (M, C, H, W) are perturbed images of `SPOILED`: (M,) bool."""
    clean = (x.detach()[:, None] == X).flatten(2).all(2).any(1)
    return (x[:, 0, 0, 0] > 0.75) & ~clean


class NotFinite(Steady):
    """Logits that are not finite: all of a row, or one class's alone."""

    def __init__(self, value: float, classes: int) -> None:
        super().__init__()
        self.value, self.classes = value, classes

    def classify(self, x: Tensor) -> Tensor:
        where = spoiled(x)[:, None] & (torch.arange(4) >= 4 - self.classes)
        return torch.where(where, self.value, super().classify(x))


class NoGradient(Steady):
    """The logits are finite, their gradient is not: 0 times the slope of the root at 0."""

    def classify(self, x: Tensor) -> Tensor:
        slope = (x.flatten(1).mean(1) * ~spoiled(x)).sqrt()
        return super().classify(x) + 0 * slope[:, None]


class NoEnergy(Steady):
    def energy(self, x: Tensor) -> Tensor:
        return torch.where(spoiled(x), torch.inf, super().energy(x))


def attacked(defense: Defense, attack: Attack, given: Tensor | None = None) -> list[Record]:
    images, seeds = Images(torch.arange(N), X.clone(), Y), Seeds(0, "defense", "attack")
    clean = predict_clean(defense, images, seeds, 1, batch_size=4)
    task = ShardTask(defense, attack, images, seeds, clean, 1, 4, lambda target: None, given)
    return evaluate(task).shard(slice(0, len(images)))[0]


def found(records: list[Record]) -> list[str]:
    return [record.verdict for record in records]


ONLY_THOSE = ["error" if row in SPOILED else "robust" for row in range(N)]


@pytest.mark.parametrize("name", WITHIN)
@pytest.mark.parametrize(
    ("value", "classes"), [(torch.nan, 4), (torch.nan, 1), (torch.inf, 1), (-torch.inf, 1)], ids=str
)
def test_logits_that_are_not_finite_are_an_error_whatever_the_attack(name: str, value: float, classes: int) -> None:
    records = attacked(NotFinite(value, classes), ATTACKS[name]())
    assert found(records) == ONLY_THOSE
    told = "the defense gave NaN or infinite logits to the attack, on a perturbed image"
    assert all(record.error == (told if record.index in SPOILED else None) for record in records)


@pytest.mark.parametrize("name", [name for name in WITHIN if name not in BLACK_BOX])
def test_a_gradient_that_is_not_finite_is_an_error_whatever_the_attack(name: str) -> None:
    records = attacked(NoGradient(), ATTACKS[name]())
    assert found(records) == ONLY_THOSE
    told = "the gradient of the attack was NaN or infinite, on a perturbed image"
    assert all(record.error == told for record in records if record.index in SPOILED)


@pytest.mark.parametrize("name", BLACK_BOX)
def test_a_gradient_that_nobody_asks_for_is_no_error(name: str) -> None:
    assert found(attacked(NoGradient(), ATTACKS[name]())) == ["robust"] * N


def test_fab_which_leaves_the_budget_errs_on_the_safe_side() -> None:
    for defense in (NotFinite(torch.nan, 4), NoGradient()):
        records = attacked(defense, ATTACKS["fab"]())
        assert all(records[row].verdict == "error" for row in SPOILED)
        assert "fooled" not in found(records)


def test_an_energy_that_is_not_finite_is_an_error() -> None:
    records = attacked(NoEnergy(), ATTACKS["lagrange"]())
    assert found(records) == ONLY_THOSE
    told = "the defense gave a NaN or infinite energy to the attack, on a perturbed image"
    assert records[1].error == records[4].error == told


def test_transferred_images_on_which_a_defense_is_not_finite_are_errors() -> None:
    attack = Transfer("other", "attack", "Linf", EPS)
    assert found(attacked(NotFinite(torch.nan, 4), attack, (X + 0.05).clamp(0, 1))) == ONLY_THOSE


@pytest.mark.parametrize("name", WITHIN)
def test_the_other_images_are_attacked_as_if_nothing_had_been_wrong(name: str) -> None:
    """Libraries draw by position, so that the spoiled images must take part in both runs."""
    whole, broken = (attacked(defense, ATTACKS[name]()) for defense in (Steady(), NotFinite(torch.nan, 4)))
    for row in set(range(N)) - set(SPOILED.tolist()):
        assert broken[row].adv_margins == pytest.approx(whole[row].adv_margins, abs=1e-6)


class Asks(Attack):
    """Asks about a given image."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.threat, self.image = PGD("Linf", EPS).threat, image

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        target(self.image[None], torch.tensor([2]))
        return x

    def cost(self, num_classes: int):  # type: ignore[no-untyped-def]
        return PGD("Linf", EPS).cost(num_classes)


def test_asking_about_an_image_that_is_not_finite_is_an_error_of_the_attack() -> None:
    """Of a defense that turns NaN into something else, too."""
    defense = Steady()
    defense.purify = lambda x: x.nan_to_num(0.5)  # type: ignore[method-assign]
    records = attacked(defense, Asks(torch.full((1, 6, 6), torch.nan)))
    assert [record.index for record in records if record.verdict == "error"] == [2]
    assert records[2].error == "the attack queried an image with NaN or infinite pixels"


def test_a_loss_that_overflows_is_an_error() -> None:
    target = Target(Steady(), X, torch.arange(N))
    step = target.step(X, torch.arange(N), lambda logits, rows: logits[:, 0] * torch.where(rows == 3, 1e38, 1.0))
    assert torch.isfinite(step.loss).all()
    reasons = target.met.reasons()
    assert reasons[3] == "the loss of the attack was NaN or infinite, on the clean image"
    assert [row for row, reason in enumerate(reasons) if reason] == [3]


def test_another_view_remembers_the_same_images() -> None:
    target = Target(NotFinite(torch.nan, 4), X, torch.arange(N))
    rows = torch.tensor([5, 4, 0])
    target.with_view(gradient="exact", eot=1, rows=rows)(X[rows] + 0.01, torch.arange(3))
    assert [row for row, reason in enumerate(target.met.reasons()) if reason] == [4]


def test_an_image_that_is_asked_about_several_times_at_once_is_remembered_if_any_is_not_finite() -> None:
    target = Target(NotFinite(torch.nan, 4), X, torch.arange(N))
    logits = target(torch.stack([X[4], X[4] + 0.01, X[4]]), torch.tensor([4, 4, 4]))
    assert torch.equal(logits[0], logits[2]) and not logits[1].any()
    assert target.met.reasons()[4] is not None


def test_remembering_waits_for_no_device() -> None:
    """A tensor on the meta device has no values, so that reading one is an error."""
    met, rows = NonFinite(N, torch.device("meta")), torch.zeros(3, dtype=torch.int64, device="meta")
    values, instead = (torch.empty(3, size, device="meta") for size in (2, 1))
    kept = met.checked("logits", values, rows, lambda: rows == 2, lambda: instead)
    assert kept.shape == values.shape and kept.is_meta


def test_finite_numbers_are_passed_on_and_others_replaced() -> None:
    met, rows = NonFinite(N, torch.device("cpu")), torch.tensor([2, 2, 0])
    values = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [3.0, 4.0]])
    kept = met.checked("logits", values, rows, lambda: rows == 2, lambda: torch.zeros(3, 1))
    assert kept.tolist() == [[1, 2], [0, 0], [3, 4]]
    assert [reason is not None for reason in met.reasons()] == [False, False, True] + [False] * (N - 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [[], [torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf]])
def test_only_values_that_are_not_finite_are_replaced_even_if_their_sum_overflows(
    bad: list[float], dtype: torch.dtype
) -> None:
    """Opposite infinities do not cancel, and large values are kept whatever their sum is."""
    values = torch.full((3, 8), torch.finfo(dtype).max, dtype=dtype)
    values[1, : len(bad)] = torch.tensor(bad, dtype=dtype)
    met, rows = NonFinite(3, values.device), torch.arange(3)
    found = met.checked("logits", values, rows, lambda: rows < 0, lambda: torch.zeros_like(values))
    assert found[[0, 2]].equal(values[[0, 2]])
    assert found[1].equal(torch.zeros_like(values[1]) if bad else values[1])
    assert [reason is None for reason in met.reasons()] == [True, not bad, True]
