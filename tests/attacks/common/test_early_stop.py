"""Images that leave AutoAttack's APGD and FAB: those that are misclassified and no others, as they were at the time."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack_targeted
from torch import Tensor

from attacks.common.early_stop import AllLeft, EarlyStopping
from attacks.common.one_draw import OneDraw
from attacks.common.stopping_apgd import StoppingAPGD, StoppingTargetedAPGD, _earlier_decide
from attacks.common.stopping_fab import StoppingFAB, _one_suffices
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import NORMS

SHAPE = (1, 4, 4)


class Linear(Defense):
    """Five classes, by fixed random weights; keeps the batches that it is asked about."""

    num_classes = 5

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", normal(torch.arange(5), (16,)))
        self.asked: list[Tensor] = []

    def classify(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return x.flatten(1) @ self.weight.T


def problem(n: int = 6) -> tuple[Linear, OneDraw, Tensor, Tensor]:
    defense, x = Linear(), uniform(torch.arange(n), SHAPE)
    y = defense(x).argmax(1)
    return defense, OneDraw(Target(defense, x, torch.arange(n))), x, y


def misled(defense: Linear, x: Tensor, y: Tensor) -> Tensor:
    """Images beyond the boundary to the next class."""
    return x + 10 * (defense.weight[(y + 1) % 5] - defense.weight[y]).view_as(x)


def distance_to_the_boundary(defense: Linear, x: Tensor, y: Tensor) -> Tensor:
    """In L2, without the bounds of [0, 1]: min_k (z_y - z_k) / ||w_y - w_k||, (N,)."""
    logits, weight = defense(x), defense.weight
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = (weight[y][:, None] - weight[None]).norm(dim=2)
    return (gaps / lengths).scatter(1, y[:, None], torch.inf).amin(1)


def test_only_images_that_stand_are_asked_about() -> None:
    defense, model, x, y = problem()
    stopping = EarlyStopping(model, x, y)
    stopping(x)
    wrong = x.clone()
    wrong[[1, 4]] = misled(defense, x, y)[[1, 4]]
    fooled = torch.tensor([False, True, False, False, True, False])
    assert (defense(wrong).argmax(1) != y).equal(fooled)
    stopping(wrong)
    assert stopping.misclassified.equal(fooled)
    defense.asked.clear()
    logits = stopping(x)
    assert [len(batch) for batch in defense.asked] == [4]
    assert logits[~fooled].equal(defense(x)[~fooled])
    assert (logits[fooled].argmax(1) != y[fooled]).all()
    assert stopping.adversarial(x).equal(wrong)


def test_a_narrow_miss_is_asked_about_again() -> None:
    _, _, x, y = problem(2)

    class Close(Linear):
        def classify(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 5)
            logits[:, 0], logits[:, 1] = 1.0, 1.0 + 5e-6
            return logits

    stopping = EarlyStopping(OneDraw(Target(Close(), x, torch.arange(2))), x, torch.zeros_like(y))
    stopping(x)
    assert not stopping.misclassified.any()


def test_an_image_leaves_with_all_its_targets_and_nothing_left_ends_the_run() -> None:
    defense, model, x, y = problem(2)
    copies, labels = x.repeat(2, 1, 1, 1), y.repeat(2)
    stopping = EarlyStopping(model, copies, labels, leaving=partial(_one_suffices, 2))
    wrong = copies.clone()
    wrong[2] = misled(defense, x, y)[0]
    stopping(wrong)
    assert stopping.misclassified.tolist() == [False, False, True, False]
    assert stopping.left.tolist() == [True, False, True, False]
    wrong[1] = misled(defense, x, y)[1]
    stopping(wrong)
    assert stopping.left.all()
    with pytest.raises(AllLeft):
        stopping(wrong)


def test_after_a_run_that_succeeded_later_runs_do_not_count_and_earlier_ones_go_on() -> None:
    rows = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]).bool()
    left = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
    assert _earlier_decide(4, rows.flatten()).view(4, 3).equal(left)
    assert not _earlier_decide(4, torch.zeros(12, dtype=torch.bool)).any()


def targeted(cls: Any, model: Any, eps: float, norm: str, seed: int) -> Any:
    return cls(model, n_iter=8, norm=norm, eps=eps, seed=seed, n_target_classes=4, device=torch.device("cpu"))


def key(image: Tensor) -> bytes:
    return image.numpy().tobytes()


def starts(asked: list[Tensor], x: Tensor) -> list[Tensor]:
    """The random starts of the library's runs: what it asks after clean images, by which it ranks the targets."""
    clean = {key(image) for image in x}
    return [start for ranked, start in pairwise(asked[1:]) if {*map(key, ranked)} <= clean]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_targets_in_one_batch_have_the_random_starts_and_the_verdicts_of_one_after_the_other(norm: str) -> None:
    together, fell = set(), 0
    for seed in range(6):
        defense, model, x, y = problem(24)
        rows = torch.arange(4) + 4 * seed
        eps = float(distance_to_the_boundary(defense, x, y)[rows].median()) * (0.35 if norm == "Linf" else 1)
        defense.asked.clear()
        ours = targeted(StoppingTargetedAPGD, model, eps, norm, seed).perturb(x[rows], y[rows])
        mine, defense.asked = defense.asked, []
        library = targeted(APGDAttack_targeted, defense, eps, norm, seed).perturb(x[rows], y[rows])
        theirs = defense.asked
        wrong = defense(ours).argmax(1) != y[rows]
        assert wrong.equal(defense(library).argmax(1) != y[rows])
        assert ours[~wrong].equal(x[rows][~wrong])
        evaluated = {key(image) for batch in mine for image in batch}
        assert len(starts(theirs, x)) >= 1
        assert all(key(image) in evaluated for start in starts(theirs, x) for image in start)
        together |= {len(batch) for batch in mine}
        fell += int(wrong.sum())
    assert max(together) == 16 and 0 < fell < 24


def test_beyond_the_budget_nothing_counts() -> None:
    defense, model, x, y = problem()
    stopping = EarlyStopping(model, x, y, within=NORMS["Linf"](Quantity("0.001")))
    stopping(misled(defense, x, y))
    assert not stopping.misclassified.any()


@pytest.mark.parametrize("attack", ["apgd", "fab"])
def test_images_near_the_boundary_fall_and_far_ones_stand(attack: str) -> None:
    defense, model, x, y = problem(12)
    away = distance_to_the_boundary(defense, x, y)
    eps = float(away.median())
    options = {"norm": "L2", "eps": eps, "seed": 0, "device": x.device}
    if attack == "apgd":
        images = StoppingAPGD(model, n_iter=40, **options).perturb(x, y)
    else:
        fab = StoppingFAB(model, NORMS["L2"](Quantity(eps)), n_iter=40, n_restarts=1, targeted=True, **options)
        fab.n_target_classes = 4
        images = fab.perturb(x, y)
    fooled = defense(images).argmax(1) != y
    assert (images - x).flatten(1).norm(dim=1).max() <= eps * (1 + 1e-5)
    assert not fooled[away > eps].any()
    assert fooled[away < 0.5 * eps].all()
    assert fooled.any()
