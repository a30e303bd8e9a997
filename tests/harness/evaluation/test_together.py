"""What becomes of an image does not depend on how many shards are attacked together.

The classifiers here add up their products row by row, in the same order in any batch. A matrix product or a convolution
rounds differently in batches of different sizes, by about 1e-7 of its result, which a sign of a gradient close to zero
can turn into another pixel. So a run's batches follow from the suite alone, and never from what is left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.adaptive import Adaptive
from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.clean import Clean
from attacks.corruption import Corruption
from attacks.ddn import DDN
from attacks.fmn import FMN
from attacks.lagrange import Lagrange
from attacks.noise import Noise
from attacks.parametric import Parametric
from attacks.pgd import PGD
from attacks.sigma_zero import SigmaZero
from attacks.stadv import StAdv
from attacks.transfer import Transfer
from attacks.worst_of import WorstOf
from harness.attack import Attack
from harness.config import registry
from harness.config.alias import aliases
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.evaluation.fitting import Fitting
from harness.evaluation.job import Job
from harness.evaluation.seeds import Seeds
from harness.evaluation.shard import Evaluated, Shard, evaluate, predict_clean
from harness.evaluation.task import ShardTask
from harness.evaluation.together import BATCH, MEMORY, Batch, batches, images_together
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.results.store import ShardRange, shard_ranges
from harness.suite.schema import Protocol
from harness.target import Target

SHARDS = ((0, 3), (3, 6), (6, 8))
EPS = Quantity("0.08")
LINF: dict[str, Any] = {"norm": "Linf", "eps": EPS}


class Rows(Defense):
    """Three classes by products with fixed weights, after a bend, added up image by image."""

    num_classes = 3

    def __init__(self, noise: float = 0.0, cut: bool = False) -> None:
        super().__init__()
        self.register_buffer("weights", normal(torch.arange(3), (16,)))
        self.noise, self.cut, self.stochastic = noise, cut, noise > 0

    def classify(self, x: Tensor) -> Tensor:
        x = x.detach() if self.cut else x
        logits = ((3 * (x.flatten(1)[:, None] - 0.5)).sin() * self.weights).sum(2)
        return logits + self.noise * normal(self.seeds_for(x), (3,)) if self.noise else logits

    def energy(self, x: Tensor) -> Tensor:
        return (x - 0.5).square().flatten(1).sum(1)


IMAGES = 0.2 + 0.6 * uniform(torch.arange(8), (1, 4, 4))
DATA = Images(torch.arange(40, 48), IMAGES, Rows()(IMAGES).argmax(1))
DATA.y[5] = (DATA.y[5] + 1) % 3  # needs no attack on a deterministic defense
SEEDS = Seeds(0, "defense", "attack")


class Trial:
    """Evaluates shards of the images, and notes in which batches, with how many images at a time in the defense."""

    def __init__(self, defense: Defense, attack: Attack, **options: Any) -> None:
        self.defense, self.attack, self.options = defense, attack, options
        self.asked: list[tuple[ShardRange, int]] = []
        self.notes: list[str] = []

    def __call__(self, batch: Batch, batch_size: int) -> Evaluated:
        self.asked.append(((batch[0][0], batch[-1][1]), batch_size))
        clean = predict_clean(self.defense, DATA, SEEDS, 3, batch_size=1)
        whole = ShardTask(self.defense, self.attack, DATA, SEEDS, clean, 3, batch_size, lambda target: None)
        return evaluate(replace(whole, **self.options).part(slice(batch[0][0], batch[-1][1])))

    def shards(self, job: Job, batch_size: int = 8) -> dict[ShardRange, Shard]:
        return Fitting(batch_size, self.notes.append).shards(job, self)


def told(shards: dict[ShardRange, Shard]) -> dict[ShardRange, Any]:
    """Everything but the time that it took."""
    return {
        bounds: ([asdict(record) | {"seconds": 0} for record in records], {k: v.tolist() for k, v in tensors.items()})
        for bounds, (records, tensors) in shards.items()
    }


def alone(trial: Trial) -> dict[ShardRange, Any]:
    return told({bounds: trial.shards(Job("d/a", (bounds,)))[bounds] for bounds in SHARDS})


OWN: dict[str, tuple[Callable[[], Attack], list[Defense]]] = {
    "pgd": (partial(PGD, **LINF, steps=5, restarts=2, momentum=0.5), [Rows(), Rows(0.3)]),
    "pgd-targeted": (partial(PGD, "L2", Quantity("0.3"), steps=4, loss="margin-targeted", restarts=2), [Rows()]),
    "pgd-malt": (partial(PGD, "L1", Quantity("0.8"), steps=4, loss="margin-malt"), [Rows()]),
    "pgd-agreeing": (partial(PGD, **LINF, steps=3, eot=3, select="agreeing", low_frequency=3), [Rows(), Rows(0.3)]),
    "apgd": (partial(APGD, **LINF, steps=8, loss="ce", eot=2), [Rows(), Rows(0.3)]),
    "adaptive": (
        partial(Adaptive, **LINF, steps=3, rounds=2, votes=2, proposals=3),
        [Rows(), Rows(0.3), Rows(cut=True)],
    ),
    "lagrange": (partial(Lagrange, **LINF, steps=4, loss="ce", gradient="exact", draws=3), [Rows(), Rows(0.3)]),
    "stadv": (partial(StAdv, steps=4), [Rows(), Rows(0.3)]),
    "fmn": (partial(FMN, **LINF, steps=4), [Rows()]),
    "sigma_zero": (partial(SigmaZero, Quantity(20), steps=4), [Rows()]),
    "ddn": (partial(DDN, Quantity("0.5"), steps=4), [Rows()]),
    "parametric": (partial(Parametric, "Fog", Quantity(1), steps=3, restarts=2), [Rows(), Rows(0.3)]),
    "corruption": (partial(Corruption, "gaussian_noise", 3, tries=2), [Rows(), Rows(0.3)]),
    "noise": (partial(Noise, **LINF, tries=4), [Rows(), Rows(0.3)]),
    "transfer": (partial(Transfer, "other", "attack", **LINF), [Rows()]),
    "clean": (Clean, [Rows(), Rows(0.3)]),
    "worst_of": (
        lambda: WorstOf([PGD(**LINF, steps=2), APGD(**LINF, steps=4)], draws=3),  # type: ignore[list-item]
        [Rows(), Rows(0.3)],
    ),
}


def test_every_attack_of_our_own_that_may_share_a_call_is_tried_here() -> None:
    classes = {entry.name: registry.find("attacks", entry.name) for entry in registry.entries("attacks")}
    independent = {name for name, cls in classes.items() if vars(cls).get("independent")}
    assert independent - set(aliases("attacks")) == {name.partition("-")[0] for name in OWN}
    assert independent & set(aliases("attacks")) == set(aliases("attacks")), "each is another name of one of them"
    # what a perceptual network sees is rounded otherwise in other batches, and steps follow it
    assert set(classes) - independent == {"autoattack", "torchattacks", "crossover", "ppgd"}


class Mine(PGD):
    """An attack of a user that extends one of ours, and draws from the global generator."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return self.threat.project(x, x + 0.08 * (2 * torch.rand_like(x) - 1))


def test_an_attack_that_says_nothing_itself_shares_no_call() -> None:
    pgd, mine, library = PGD(**LINF), Mine(**LINF), AutoAttack(**LINF)
    assert pgd.is_independent() and not mine.is_independent() and not library.is_independent()
    assert WorstOf([pgd]).is_independent() and not WorstOf([pgd, mine]).is_independent()  # type: ignore[list-item]
    assert not WorstOf([pgd, WorstOf([library])]).is_independent()  # type: ignore[list-item]
    trial = Trial(Rows(), mine)
    assert told(trial.shards(Job("d/a", SHARDS))) != alone(trial), "its numbers would change"


@pytest.mark.parametrize("name", OWN)
def test_shards_that_were_attacked_together_are_those_that_were_attacked_alone(name: str) -> None:
    make, defenses = OWN[name]
    moved = (IMAGES + 0.05).clamp(0, 1)
    options = {"source_images": moved, "missing_sources": {4: "gone"}} if name == "transfer" else {}
    for defense in defenses:
        trial = Trial(defense, make(), **options)
        assert trial.attack.is_independent()
        together = told(trial.shards(Job("d/a", SHARDS)))
        assert trial.asked == [((0, 8), 8)]
        assert together == alone(trial)


class Small(Rows):
    """A device that holds so many images."""

    def __init__(self, most: int, noise: float = 0.0) -> None:
        super().__init__(noise)
        self.most = most

    def classify(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().classify(x)


def test_batches_are_halved_until_they_fit_and_what_fits_is_remembered() -> None:
    trial = Trial(Small(3), PGD(**LINF, steps=3))
    quartered = ((0, 2), (2, 4), (4, 6), (6, 8))
    found = trial.shards(Job("d/a", quartered))
    assert trial.asked == [((0, 8), 8), ((0, 4), 4), ((0, 2), 2), ((2, 4), 2), ((4, 6), 2), ((6, 8), 2)]
    assert trial.notes == [
        "d/a: out of memory with 8 images at a time; going on with 4",
        "d/a: out of memory with 4 images at a time; going on with 2",
    ]
    calm = Trial(Rows(), PGD(**LINF, steps=3))
    assert told(found) == told(calm.shards(Job("d/a", quartered)))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_where_one_shard_does_not_fit_the_defense_is_given_fewer_images_at_a_time(noise: float) -> None:
    trial, fitting = Trial(Small(1, noise), PGD(**LINF, steps=3)), Fitting(8, print)
    found = [fitting.shards(Job("d/a", (bounds,)), trial) for bounds in ((0, 4), (4, 8))]
    assert trial.asked == [((0, 4), 8), ((0, 4), 4), ((0, 4), 2), ((0, 4), 1), ((4, 8), 1)]
    calm = Trial(Rows(noise), PGD(**LINF, steps=3))
    assert told(found[0] | found[1]) == told(calm.shards(Job("d/a", ((0, 4), (4, 8)))))


class Hungry(PGD):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        raise MemoryError("full")


def test_memory_that_is_too_small_for_one_image_is_an_error_and_never_robust() -> None:
    trial = Trial(Rows(0.3), Hungry(**LINF))
    records, _ = trial.shards(Job("d/a", ((0, 4),)))[0, 4]
    assert [size for _, size in trial.asked] == [8, 4, 2, 1]
    assert [record.verdict for record in records] == ["error"] * 4
    assert all("more memory" in (record.error or "") for record in records)


class Picky(Rows):
    """Refuses an image that was moved, if it is the one numbered 45."""

    def classify(self, x: Tensor) -> Tensor:
        near = (x - IMAGES[5]).abs().flatten(1).amax(1)
        if ((near > 0) & (near < 0.1)).any():
            raise RuntimeError("planted")
        return super().classify(x)


def test_an_image_that_breaks_the_defense_costs_its_own_shard_and_no_other() -> None:
    right = replace(DATA, y=Rows()(IMAGES).argmax(1))
    trial = Trial(Picky(), PGD(**LINF, steps=3), images=right)
    found = trial.shards(Job("d/a", SHARDS))
    verdicts = {bounds: {record.verdict == "error" for record in records} for bounds, (records, _) in found.items()}
    assert verdicts == {(0, 3): {False}, (3, 6): {True}, (6, 8): {False}}
    calm = told(Trial(Rows(), PGD(**LINF, steps=3), images=right).shards(Job("d/a", SHARDS)))
    assert {bounds: told(found)[bounds] for bounds in ((0, 3), (6, 8))} == {b: calm[b] for b in ((0, 3), (6, 8))}


def test_only_what_is_wanted_comes_back_and_what_is_not_was_beside_it() -> None:
    trial = Trial(Rows(), PGD(**LINF, steps=3))
    assert list(trial.shards(Job("d/a", SHARDS, wanted=((3, 6),)))) == [(3, 6)]
    assert trial.asked == [((0, 8), 8)]
    trial = Trial(Small(3), PGD(**LINF, steps=3))
    assert list(trial.shards(Job("d/a", SHARDS, wanted=((3, 6),)))) == [(3, 6)]
    assert trial.asked == [((0, 8), 8), ((3, 6), 4)]


@pytest.mark.parametrize(
    ("count", "shard", "images"), [(10, 4, 8), (1000, 32, 256), (9, 1, 4), (7, 32, 256), (64, 8, 4)]
)
def test_batches_hold_each_shard_once_in_order_and_differ_by_one_shard_at_most(
    count: int, shard: int, images: int
) -> None:
    shards = shard_ranges(count, shard)
    found = batches(shards, images)
    assert [bounds for batch in found for bounds in batch] == shards
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(batch[-1][1] - batch[0][0] <= max(images, shard) for batch in found)
    assert batches(shards, images=1) == [(bounds,) for bounds in shards]


class Heavy(Rows):
    """Keeps a graph of so many bytes for each image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return logits + 0 * x.flatten(1)[:, :1].expand(-1, self.size // 4).exp().sum(1, keepdim=True)


def together(defense: Defense, evaluations: float = 1.0, **protocol: int) -> int:
    return images_together(defense, evaluations, DATA.x[:1], SEEDS, Protocol(**protocol))


def test_the_more_evaluations_an_image_takes_the_fewer_are_attacked_together() -> None:
    assert [together(Rows(), cost) for cost in (1, 2, 3, 400)] == [BATCH["cpu"], BATCH["cpu"] // 2, 1, 1]
    assert together(Rows(), 3, shard=8) == BATCH["cpu"] // 3
    assert together(Rows(), batch_size=70) == 70 and together(Rows(), batch_size=40) == 1


def test_no_more_images_are_attacked_together_than_their_graph_has_room_for() -> None:
    assert MEMORY["cpu"] == 2**30
    assert together(Heavy(2**20)) == BATCH["cpu"]
    assert together(Heavy(12 * 2**20)) == 64, "16 MiB each, rounded up to a power of two"


def test_a_defense_that_has_no_gradient_or_fails_is_joined_and_left_to_the_attack() -> None:
    assert together(Rows(cut=True)) == together(Small(0)) == BATCH["cpu"]
