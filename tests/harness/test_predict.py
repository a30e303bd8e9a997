"""Answers do not depend on the batch, wherever a defense takes its noise from."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.defense import Defense
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.run import run
from harness.predict import draw_logits, draws_globally, margin, predict_votes, predictions, query
from harness.randomness import fenced, fold, normal, row_seeds
from harness.results.store import Store
from harness.suite import load_suite
from harness.target import Target

X = torch.rand(7, 2, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(7) % 3
SEEDS = row_seeds(1, torch.arange(7))


class Linear(Defense):
    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(18, 3, generator=torch.Generator().manual_seed(1)))
        self.batches: list[int] = []

    def noise(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def classify(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return (x + self.noise(x)).flatten(1).sin() @ self.weight


class FromTorch(Linear):
    def noise(self, x: Tensor) -> Tensor:
        return torch.randn_like(x)


class FromNumpy(Linear):
    def noise(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.random.standard_normal(x.shape)).to(x)


class FromPython(Linear):
    def noise(self, x: Tensor) -> Tensor:
        return torch.tensor([random.gauss(0, 1) for _ in range(x.numel())]).view_as(x)


class FromDropout(Linear):
    def noise(self, x: Tensor) -> Tensor:
        return F.dropout(x) - x


class FromAnInnerDefense(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.inner = FromTorch()

    def noise(self, x: Tensor) -> Tensor:
        return self.inner.noise(x)


class Reseeding(Linear):
    """The same numbers in every call, by place in the batch."""

    def noise(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.randn_like(x)


class WritingOverItsInput(Linear):
    def noise(self, x: Tensor) -> Tensor:
        x += torch.randn_like(x)
        return torch.zeros_like(x)


class FromSeeds(Linear):
    def noise(self, x: Tensor) -> Tensor:
        return normal(self.seeds_for(x), x.shape[1:])


GLOBAL = [FromTorch, FromNumpy, FromPython, FromDropout, FromAnInnerDefense, Reseeding, WritingOverItsInput]


@pytest.mark.parametrize("kind", GLOBAL)
def test_noise_from_a_global_generator_belongs_to_the_image(kind: type[Linear]) -> None:
    whole = query(kind(), X, SEEDS)
    apart = torch.cat([query(kind(), X[i : i + 1], SEEDS[i : i + 1]) for i in range(7)])
    turned = query(kind(), X.flip(0), SEEDS.flip(0)).flip(0)
    assert torch.allclose(whole, apart, atol=1e-6) and torch.allclose(whole, turned, atol=1e-6)
    assert (query(kind(), X, SEEDS + 1) != whole).any() or kind is Reseeding


@pytest.mark.parametrize("kind", GLOBAL)
def test_a_batch_is_asked_again_once_and_image_by_image_from_then_on(kind: type[Linear]) -> None:
    defense = kind()
    assert not draws_globally(defense)
    query(defense, X, SEEDS)
    query(defense, X, SEEDS)
    assert draws_globally(defense) and defense.batches == [7, *[1] * 14]


@pytest.mark.parametrize("kind", [Linear, FromSeeds])
def test_other_defenses_are_asked_batch_by_batch(kind: type[Linear]) -> None:
    defense = kind()
    query(defense, X, SEEDS)
    query(defense, X, SEEDS)
    assert defense.batches == [7, 7] and not draws_globally(defense)


def test_noise_that_comes_only_at_times_belongs_to_the_image_too() -> None:
    class Sometimes(Linear):
        def noise(self, x: Tensor) -> Tensor:
            return torch.randn_like(x) if bool((x.amax((1, 2, 3)) > 1).any()) else torch.zeros_like(x)

    bright = torch.cat([X, 1.5 + X])
    seeds = row_seeds(1, torch.arange(14))
    defense = Sometimes()
    first = query(defense, X, SEEDS)
    assert defense.batches == [7]
    both = query(defense, bright, seeds)
    assert torch.allclose(both[:7], first, atol=1e-6)
    assert torch.allclose(both[13:], query(Sometimes(), bright[13:], seeds[13:]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GLOBAL)
def test_verdicts_and_gradients_do_not_depend_on_the_batch_size(kind: type[Linear]) -> None:
    answers, steps = [], []
    for batch_size in (1, 3, 256):
        answers.append(predict_votes(kind(), X, Y, SEEDS, votes=4, batch_size=batch_size))
        target = Target(kind(), X, SEEDS, eot=3, batch_size=batch_size)
        steps.append(target.step(X, torch.arange(7), lambda z, rows: z.logsumexp(1) - z[:, 0]))
    for other, step in zip(answers[1:], steps[1:], strict=True):
        assert torch.equal(other.votes, answers[0].votes)
        assert torch.allclose(other.margins, answers[0].margins, atol=1e-5)
        assert torch.allclose(step.grad, steps[0].grad, atol=1e-5)


def test_a_fence_knows_whether_anything_was_drawn() -> None:
    for draw in (lambda: torch.rand(1), lambda: np.random.rand(), random.random, lambda: torch.manual_seed(2)):
        with fenced(1) as drawn:
            assert not drawn()
            draw()
            assert drawn()
    with fenced(1) as drawn:
        torch.rand(1, generator=torch.Generator())
        nn.functional.dropout(X, training=False)
        np.random.default_rng(0).random()
        assert not drawn()


SUITE = """\
suite: global
dataset: {name: digits, first: 7}
protocol: {votes: 3, shard: 4, batch_size: SIZE}
defenses:
  noisy: {type: "./noisy.py:Noisy"}
attacks:
  pgd: {type: pgd, norm: Linf, eps: 0.2, steps: 3, eot: 2}
"""

NOISY = """\
import torch

from defenses.undefended import Undefended


class Noisy(Undefended):
    stochastic = True

    def __init__(self):
        super().__init__("digits-cnn")

    def purify(self, x):
        return (x + 0.3 * torch.randn_like(x)).clamp(0, 1)
"""


@pytest.mark.slow
def test_a_run_gives_the_same_records_whatever_the_batch_size(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)

    def results(size: int) -> tuple[list[dict[str, Any]], Tensor]:
        path = tmp_path / f"{size}.yaml"
        path.write_text(SUITE.replace("SIZE", str(size)))
        out = tmp_path / f"out-{size}"
        run(load_suite(path), out, torch.device("cpu"))
        [work] = pending_work(load_suite(path), Store(out), load_images(load_suite(path))[1], lambda note: None)
        records = [asdict(record) for shard in work.shards.values() for record in shard or []]
        return records, torch.cat([work.stored.images(*bounds)["images"] for bounds in work.stored.shards()])

    (expected, images), *others = (results(size) for size in (256, 1, 3))
    for records, found in others:
        assert torch.allclose(found, images, atol=1e-6)
        for one, other in zip(expected, records, strict=True):
            for kind in ("clean", "adv"):
                assert other[f"{kind}_votes"] == one[f"{kind}_votes"]
                assert other[f"{kind}_margins"] == pytest.approx(one[f"{kind}_margins"], abs=1e-4)


# Votes and margins


class Harness(Linear):
    """Takes its noise from the harness's seeds."""

    def noise(self, x: Tensor) -> Tensor:
        return 0.3 * normal(self.seeds_for(x), x.shape[1:])


class Steady(Linear):
    stochastic = False


def test_a_margin_is_the_true_logit_less_the_largest_other() -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = torch.arange(50) % 6
    naive = [
        row[label].item() - max(value.item() for place, value in enumerate(row) if place != label)
        for row, label in zip(logits, y.tolist(), strict=True)
    ]
    found = margin(logits, y)
    assert found.tolist() == pytest.approx(naive)
    assert torch.equal(found > 0, logits.argmax(1) == y)
    [grad] = torch.autograd.grad(found.sum(), logits)
    assert torch.equal(grad.sum(1), torch.zeros(50)) and torch.equal(grad.gather(1, y[:, None]), torch.ones(50, 1))


def test_predictions_are_classes_and_margins_by_draw_and_a_nan_makes_both_none() -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]], [[1.0, 4.0, 2.0], [torch.nan, 9.0, 1.0]]])
    found = predictions(logits, torch.tensor([0, 1]))
    assert found.votes.tolist() == [[0, 1], [1, -1]]
    assert found.margins[:, 0].tolist() == [1.0, -3.0] and found.margins[0, 1] == 4
    assert found.margins[1, 1].isnan() and found.valid.tolist() == [True, False]


def test_an_infinite_logit_is_no_prediction_either() -> None:
    found = predictions(torch.tensor([[[torch.inf, 0.0], [0.0, -torch.inf]]]), torch.tensor([0, 0]))
    assert found.votes.tolist() == [[-1, -1]] and bool(found.margins.isnan().all())


def test_every_draw_is_a_query_of_the_defense_under_its_own_seeds() -> None:
    defense = Harness()
    found = predict_votes(defense, X, Y, SEEDS, votes=4, batch_size=3)
    draws = torch.stack([query(defense, X, fold(SEEDS, draw)) for draw in range(4)])
    assert torch.equal(found.votes, draws.argmax(2))
    assert found.votes.shape == found.margins.shape == (4, 7) and len({str(votes) for votes in draws.tolist()}) == 4
    torch.testing.assert_close(draw_logits(defense, X, SEEDS, votes=4, batch_size=7), draws)


def test_a_deterministic_defense_is_asked_once_and_no_gradient_is_kept() -> None:
    defense = Steady()
    defense.weight.requires_grad_(True)
    found = predict_votes(defense, X, Y, SEEDS, votes=4, batch_size=3)
    assert found.votes.shape == (1, 7) and defense.batches == [3, 3, 1]
    assert not found.margins.requires_grad and found.margins.dtype == torch.float32
