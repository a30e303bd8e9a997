"""An attack whose process ended goes on from its journal, to the same records and images, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from attacks.adaptive import Adaptive
from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.lagrange import Lagrange
from attacks.pgd import PGD
from harness.attack import Attack, Cost
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.evaluation.seeds import Seeds
from harness.evaluation.shard import Shard, evaluate
from harness.evaluation.task import ShardTask
from harness.journal.entry_file import EntryFile
from harness.journal.journal import Journal
from harness.predict import Predictions
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.search import Narrowing
from harness.target import Target
from harness.threat import Linf

CLASSES, SHAPE, COUNT = 5, (1, 4, 4), 3
EPS = Quantity("0.1")


class Evaluations:
    """Counts the evaluations of the defense, forward and backward, and interrupts one of them."""

    done: int = 0
    interrupted: int | None = None

    @classmethod
    def tick(cls, *_: object) -> None:
        cls.done += 1
        if cls.done == cls.interrupted:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _counted() -> Iterator[None]:
    Evaluations.done, Evaluations.interrupted = 0, None
    yield
    Evaluations.interrupted = None


class Network(Defense):
    """Two layers with weights of their own. Its energy is another evaluation."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        seeds = torch.arange(16)
        self.first = torch.nn.Linear(16, 16)
        self.first.weight.data = normal(seeds, (16,)) / 2
        self.first.bias.data = normal(seeds + 50, (1,))[:, 0]
        self.second = torch.nn.Parameter(normal(100 + torch.arange(CLASSES), (16,)))
        self.requires_grad_(False)

    def classify(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(Evaluations.tick)
        Evaluations.tick()
        return torch.tanh(self.first(4 * x.flatten(1) - 2)) @ self.second.T

    def energy(self, x: Tensor) -> Tensor:
        return self.classify(x).logsumexp(1)


class Noisy(Network):
    """Random, with a purification that has a surrogate of its own."""

    stochastic = True

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.05 * normal(self.seeds_for(x), x.shape[1:])).clamp(0, 1)


class Narrowed(Noisy):
    """Evaluates the classes that a search asks for, and measures something at full looks."""

    def classify(self, x: Tensor) -> Tensor:
        logits, narrowing = super().classify(x), self.narrowing_for(x)
        if narrowing is None:
            return logits
        if narrowing.full:
            narrowing.measured = logits.detach().abs()[:, :3]
        if narrowing.importance is not None:
            logits = logits * (1 + narrowing.importance.mean(1, keepdim=True) / 100)
        if narrowing.classes is not None:
            return torch.full_like(logits, -torch.inf).scatter(
                1, narrowing.classes, logits.gather(1, narrowing.classes)
            )
        return logits

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        return 1.0 if narrowing.full else 0.4


class Transposed(Network):
    """Its logits lie in memory by class."""

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).T.contiguous().T


class Detached(Network):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).detach()


class Unlinked(Network):
    """Its logits have a graph, which does not lead to the image."""

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x.detach().requires_grad_())


class NumPy(Network):
    def purify(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 0.99)


class NotFinite(Network):
    """NaN away from some images, and an infinite gradient."""

    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return (
            torch.where((x.flatten(1)[:, :1] * 1e3 % 2 < 1.9), logits, torch.nan) + (x[:, 0, 0, :1] - 0.5).abs().sqrt()
        )


class Mine(Attack):
    """A user's attack. `way` gives the direction in which the images move."""

    def __init__(self, way: Callable[[Target, Tensor, Tensor], Tensor], steps: int = 3) -> None:
        super().__init__()
        self.way, self.steps, self.threat = way, steps, Linf(EPS)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        moved = x
        for _ in range(self.steps):
            moved = self.threat.project(x, moved + 0.05 * self.way(target, moved, y)).detach()
        return moved

    def cost(self, num_classes: int) -> Cost:
        return Cost(10, 10)


def loss(logits: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, y, reduction="sum")


def two_queries(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """Two queries of one leaf, each used twice, and three backward passes."""
    x = x.clone().requires_grad_()
    one, other = target(x), target(x * 0.9)
    (first,) = torch.autograd.grad(one[:, 0].sum(), x, retain_graph=True)
    (loss(one, y) + loss(one + other, y)).backward(retain_graph=True)
    (last,) = torch.autograd.grad(loss(other, y), x)
    assert x.grad is not None
    return (x.grad + first + last).sign() * (1 + 0.1 * torch.rand(x.shape))


def by_itself(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """Differentiates the defense without the harness, between queries."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(target.defense(x), y), x)
    return grad.sign() * (1 + target(x.detach()).abs().amin(1)[:, None, None, None])


def by_hooks(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """Maximises what it finds inside the defense."""
    found: list[Tensor] = []
    handle = target.defense.first.register_forward_hook(lambda *call: found.append(call[-1]))
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = target(x)
    handle.remove()
    (grad,) = torch.autograd.grad((found[0] ** 2).sum() + loss(logits, y), x)
    return grad.sign()


def forward_mode(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """The derivative of the loss along two directions."""
    best = []
    for seed in (0, 1):
        with forward_ad.dual_level():
            along = 2 * uniform(torch.full((len(x),), seed), x.shape[1:]) - 1
            logits = target(forward_ad.make_dual(x, along), torch.arange(len(x)))
            best.append(along * forward_ad.unpack_dual(logits).tangent.sum())
    return sum(best).sign()


def second_order(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the length of the gradient."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(target(x), y), x, create_graph=True)
    (again,) = torch.autograd.grad(grad.square().sum(), x)
    return again.sign() + grad.detach().sign() / 2


def by_counts(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """Depends on what the target counts."""
    step = target.step(x, torch.arange(len(x)), lambda logits, rows: logits[:, 0])
    return step.grad.sign() * (1 - (target.forwards + 3 * target.backwards) % 2 / 2)[:, None, None, None]


def searching() -> Attack:
    return Adaptive("Linf", EPS, steps=4, rounds=2, votes=1, proposals=1)


def cascade() -> Attack:
    return AutoAttack("Linf", EPS, "custom", ["apgd-ce", "apgd-t", "square"], apgd_steps=2, square_queries=4)


def library() -> Attack:
    pytest.importorskip("torchattacks")
    from attacks.torchattacks import TorchAttacks

    return TorchAttacks("VMIFGSM", "Linf", EPS, {"steps": 2, "N": 2}, eot=2)


CASES: dict[str, tuple[Callable[[], Defense], Callable[[], Attack]]] = {
    "pgd": (Network, lambda: PGD("Linf", EPS, steps=3, restarts=2, random_start=True)),
    "pgd, early stopping off, rows by column": (Transposed, lambda: PGD("Linf", EPS, steps=3, early_stop=False)),
    "pgd with EOT": (Noisy, lambda: PGD("Linf", EPS, steps=3, eot=3)),
    "apgd": (Network, lambda: APGD("Linf", EPS, steps=5, loss="dlr")),
    "energy": (Network, lambda: Lagrange("Linf", EPS, weights=[0.5, 1.0], steps=2)),
    "adaptive": (Noisy, searching),
    "narrowed search": (Narrowed, searching),
    "adaptive without a gradient": (NumPy, searching),
    "autoattack": (Network, cascade),
    "autoattack without a gradient": (Detached, cascade),
    "autoattack on an unlinked graph": (Unlinked, cascade),
    "pgd without a gradient fails": (Detached, lambda: PGD("Linf", EPS, steps=2)),
    "pgd on an unlinked graph fails": (Unlinked, lambda: PGD("Linf", EPS, steps=2)),
    "not finite": (NotFinite, lambda: PGD("Linf", EPS, steps=4)),
    "torchattacks": (Noisy, library),
    "autograd of a user's own": (Noisy, lambda: Mine(two_queries)),
    "the target's counts": (Network, lambda: Mine(by_counts)),
}
"""Attacks that ask nothing but the target."""

QUERY, VERDICTS = 8, 4
"""At most so many evaluations are lost with one query, and belong to the verdicts, which are made anew."""

ASIDE = {
    "the defense itself": (Noisy, lambda: Mine(by_itself)),
    "hooks": (Network, lambda: Mine(by_hooks)),
    "forward mode": (Network, lambda: Mine(forward_mode)),
    "second order": (Network, lambda: Mine(second_order)),
}
"""Attacks to which the defense itself has to answer again."""


def attacked(defense: Defense, attack: Attack, journal: Journal | None = None) -> Shard:
    index = torch.arange(COUNT)
    images = Images(index, uniform(7 + index, SHAPE), index % CLASSES)
    clean = Predictions((index % CLASSES)[None], torch.ones(1, COUNT))
    task = ShardTask(defense, attack, images, Seeds(0, "d", "a"), clean, 2, 2, lambda target: None, journal=journal)
    return evaluate(task).shard(slice(0, COUNT))


def at_work(path: Path, name: str, interrupted: int | None = None) -> tuple[Any, float]:
    """Attacks with a journal in a file. Returns what came of it, seconds apart, and the evaluations that were done."""
    defense, attack = (CASES | ASIDE)[name]
    Evaluations.done, Evaluations.interrupted = 0, interrupted
    journal = Journal(EntryFile(path, b"i" * 32), after=0)
    try:
        return plain(attacked(defense(), attack(), journal)), Evaluations.done
    finally:
        journal.close()


def plain(shard: Shard) -> Any:
    records, tensors = shard
    return [asdict(record) | {"seconds": 0} for record in records], {k: t.numpy().tobytes() for k, t in tensors.items()}


@cache
def uninterrupted(name: str) -> tuple[Any, int]:
    defense, attack = (CASES | ASIDE)[name]
    Evaluations.done = 0
    return plain(attacked(defense(), attack())), Evaluations.done


def places(count: int, most: int) -> list[int]:
    """At most so many of the numbers 1 to `count`, in even steps, the last among them."""
    return sorted({-(-count * place // most) for place in range(1, most + 1)})


SLOW = ["forward mode"]  # PyTorch takes seconds to prepare for it


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in (*CASES, *ASIDE)])
def test_what_was_interrupted_anywhere_comes_to_the_same(name: str, tmp_path: Path) -> None:
    expected, count = uninterrupted(name)
    assert at_work(tmp_path / "whole", name)[0] == expected
    for place in places(count, count if name == "pgd" else 5):
        path = tmp_path / f"{place}"
        with pytest.raises(KeyboardInterrupt):
            at_work(path, name, interrupted=place)
        again, evaluations = at_work(path, name)
        assert again == expected, place
        if name in CASES:
            assert evaluations <= max(count - place, VERDICTS) + QUERY, place


@pytest.mark.parametrize("name", ["pgd", "adaptive", "narrowed search", "autograd of a user's own", "energy"])
def test_an_attack_that_was_recorded_to_its_end_asks_the_defense_nothing(name: str, tmp_path: Path) -> None:
    expected, _ = at_work(tmp_path / "file", name)
    again, evaluations = at_work(tmp_path / "file", name)
    assert again == expected
    stochastic = CASES[name][0]().stochastic
    assert evaluations == 2 * (2 if stochastic else 1)  # two votes or one, in batches of two images of three


def test_it_goes_on_from_a_second_interruption_too(tmp_path: Path) -> None:
    expected, count = uninterrupted("adaptive")
    path, left = tmp_path / "file", count
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            at_work(path, "adaptive", interrupted=count // 6)
    again, evaluations = at_work(path, "adaptive")
    assert again == expected and evaluations < left - 4 * (count // 6 - 3)


@pytest.mark.parametrize("name", ["pgd", "adaptive", "autograd of a user's own"])
def test_a_journal_that_was_torn_or_changed_costs_time_only(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    expected, count = at_work(path, name)
    whole = path.read_bytes()
    for place in places(len(whole), 4):
        for wrong in (whole[: place - 1], whole[: place - 1] + bytes([whole[place - 1] ^ 1]) + whole[place:]):
            path.write_bytes(wrong)
            again, evaluations = at_work(path, name)
            assert again == expected and evaluations <= count + 2, place


def test_another_attacks_answers_are_not_used(tmp_path: Path) -> None:
    """Even if the file had the right identity: the questions differ."""
    for first, second in [("apgd", "pgd"), ("pgd", "pgd with EOT"), ("adaptive", "narrowed search")]:
        path = tmp_path / first
        at_work(path, first)
        assert at_work(path, second)[0] == uninterrupted(second)[0]


def test_a_bounded_journal_is_of_use_up_to_its_end(tmp_path: Path) -> None:
    expected, count = uninterrupted("adaptive")
    defense, attack = CASES["adaptive"]
    sizes = []
    for most in (100, 5_000, 20_000):
        path = tmp_path / str(most)
        for _ in range(2):
            Evaluations.done = 0
            journal = Journal(EntryFile(path, b"i" * 32, most), after=0)
            assert plain(attacked(defense(), attack(), journal)) == expected
            journal.close()
            assert path.stat().st_size <= most
        sizes.append(Evaluations.done)
    assert count >= sizes[0] > sizes[1] > sizes[2]


class Clock:
    """Tells a time that passes by `rate` seconds each time it is asked."""

    def __init__(self, rate: float) -> None:
        self.rate, self.now = rate, 0.0

    def __call__(self) -> float:
        self.now += self.rate
        return self.now


def with_clock(path: Path, rate: float, after: float = 60.0) -> int:
    """The entries that are recorded where every query takes `rate` seconds."""
    journal = Journal(EntryFile(path, b"i" * 32), after, Clock(rate))
    attacked(Network(), PGD("Linf", EPS, steps=40, early_stop=False), journal)
    journal.close()
    file = EntryFile(path, b"i" * 32)
    count = len(file)
    file.close()
    return count


def test_nothing_is_recorded_of_a_short_attack_nor_of_cheap_queries(tmp_path: Path) -> None:
    assert with_clock(tmp_path / "short", 0.2) == 0
    assert not (tmp_path / "short").exists()
    assert with_clock(tmp_path / "long", 5.0) > 40
    assert with_clock(tmp_path / "cheap", 0.01, after=1.0) == 0


def test_seconds_are_those_of_all_processes_without_what_was_repeated(tmp_path: Path) -> None:
    path = tmp_path / "file"
    journal = Journal(EntryFile(path, b"i" * 32), 0, clock := Clock(1000.0))
    attacked(Network(), PGD("Linf", EPS, steps=3), journal)
    journal.close()
    journal = Journal(EntryFile(path, b"i" * 32), 0, Clock(0.001))
    records, _ = attacked(Network(), PGD("Linf", EPS, steps=3), journal)
    journal.close()
    total = sum(record.seconds for record in records)
    assert clock.now - 4000 < total < clock.now
