"""What a search leaves out: only what it may, of each image by itself, counted, and never of a verdict."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.common.losses import ce, dlr, margin
from harness.defense import Defense
from harness.predict import predict_votes
from harness.randomness import normal, uniform
from harness.search import Narrowing, Search
from harness.target import Target

N, CLASSES = 6, 5
X, SEEDS, ROWS = uniform(torch.arange(N), (1, 2, 2)), torch.arange(N) * 17 + 3, torch.arange(N)
Y = torch.tensor([0, 1, 2, 3, 4, 0])


class Unaware(Defense):
    """A linear classifier behind noise, which knows nothing of a search."""

    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", normal(torch.arange(CLASSES), (4,)))

    def classify(self, x: Tensor) -> Tensor:
        return (x + 0.1 * normal(self.seeds_for(x), x.shape[1:])).flatten(1) @ self.weights.T


class Aware(Unaware):
    """The same with ten terms a class, that leaves classes and terms out as it is told, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Narrowing | None] = []

    def classify(self, x: Tensor) -> Tensor:
        narrowing = self.narrowing_for(x)
        self.told.append(narrowing)
        logits = super().classify(x)
        if narrowing is None or narrowing.classes is None:
            return logits
        return torch.full_like(logits, -torch.inf).scatter(
            1, narrowing.classes, logits.gather(1, narrowing.classes) - 100
        )

    def cost(self) -> float:
        return 10.0 * CLASSES

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        if narrowing.full:
            return self.cost()
        classes = CLASSES if narrowing.classes is None else narrowing.classes.shape[1]
        return 10 * narrowing.search.timesteps * classes


def view(
    defense: Defense, search: Search | None, labels: Tensor | None = Y, eot: int = 1, batch_size: int = 256
) -> Target:
    whole = Target(defense, X, SEEDS, batch_size=batch_size)
    return whole.with_view(gradient="exact", eot=eot, search=search, labels=labels)


def test_a_defense_that_knows_nothing_of_a_search_answers_and_counts_as_without() -> None:
    searched = view(Unaware(), Search(timesteps=0.3, rivals=1, look_every=2, common_noise=True, precision="bf16"))
    plain = view(Unaware(), None)
    for _ in range(3):
        found, expected = (
            target.step(X, ROWS, lambda logits, rows: margin(logits, Y[rows])) for target in (searched, plain)
        )
        assert torch.equal(found.logits, expected.logits) and torch.equal(found.grad, expected.grad)
    assert searched.forwards.tolist() == plain.forwards.tolist() == [3] * N
    assert searched.backwards.tolist() == plain.backwards.tolist() == [3] * N


def test_the_first_query_of_an_image_and_every_so_many_after_it_are_full_looks() -> None:
    defense = Aware()
    target = view(defense, Search(rivals=1, look_every=3))
    for _ in range(7):
        target(X, ROWS)
    assert [told.full for told in defense.told] == [True, False, False, True, False, False, True]


def test_each_image_is_looked_at_by_its_own_count_whoever_is_beside_it() -> None:
    late, alone = torch.tensor([4, 1]), torch.tensor([1])
    mixed, single = (view(Aware(), Search(rivals=2, look_every=3)) for _ in range(2))
    mixed(X[[1, 0]], torch.tensor([1, 0]))
    single(X[alone], alone)
    found = mixed.sample(X[late], late)  # image 4 is new, image 1 is not
    assert torch.equal(found[:, 1], single.sample(X[alone], alone)[:, 0])
    assert torch.equal(found[:, 0], view(Aware(), Search(rivals=2)).sample(X[[4]], torch.tensor([4]))[:, 0])


def test_asked_are_the_true_class_and_the_strongest_rivals_of_the_last_full_look() -> None:
    defense = Aware()
    target = view(defense, Search(rivals=2), batch_size=4)
    looked = target(X, ROWS)
    target(X, ROWS)
    told = torch.cat([narrowing.classes for narrowing in defense.told[-2:]])
    order = looked.argsort(1, descending=True).tolist()
    expected = [[int(y), *(k for k in ranks if k != y)][:3] for ranks, y in zip(order, Y, strict=True)]
    assert told.tolist() == expected


def test_a_class_left_out_keeps_its_distance_and_never_overtakes_a_rival_that_was_asked() -> None:
    target = view(Aware(), Search(rivals=1))
    looked = target(X, ROWS)
    moved = (X + 0.3 * normal(SEEDS, X.shape[1:])).clamp(0, 1)
    found = target(moved, ROWS)
    for z, last, y in zip(found, looked, Y, strict=True):
        rival = int(last.index_fill(0, y, -torch.inf).argmax())
        for k in set(range(CLASSES)) - {int(y), rival}:
            assert math.isclose(z[k], min(z[y] + last[k] - last[y], z[rival]), abs_tol=1e-4)
        assert z[rival] < -90  # on the level of what was asked


@pytest.mark.parametrize("loss", [margin, ce, dlr, lambda z, y: F.cross_entropy(z, y, reduction="none")])
def test_every_loss_is_finite_and_its_gradient_goes_to_the_classes_asked_alone(loss) -> None:
    defense = Aware()
    target = view(defense, Search(rivals=2))
    target(X, ROWS)
    step = target.step(X, ROWS, lambda logits, rows: loss(logits, Y[rows]))
    assert step.loss.isfinite().all() and step.grad.any()
    leaf = step.logits.clone().requires_grad_()
    (by_class,) = torch.autograd.grad(loss(leaf, Y).sum(), leaf)
    asked = torch.zeros_like(leaf, dtype=torch.bool).scatter(1, defense.told[-1].classes, True)
    expected = torch.where(asked, by_class, 0) @ defense.weights
    torch.testing.assert_close(step.grad.flatten(1), expected, rtol=1e-4, atol=1e-6)


def test_a_narrowed_query_counts_as_its_share_of_a_pass_and_the_sum_is_rounded_up() -> None:
    target = view(Aware(), Search(rivals=1, timesteps=0.5, look_every=100), eot=2)
    for _ in range(6):  # a full look, and five of 2 classes of 5, half the terms: 1/5 of a pass each
        target.step(X, ROWS, lambda logits, rows: margin(logits, Y[rows]))
    assert target.forwards.tolist() == target.backwards.tolist() == [2 * (1 + 1)] * N
    target(X, ROWS)
    assert target.forwards.tolist() == [5] * N and target.backwards.tolist() == [4] * N


def test_the_defenses_own_answer_and_its_verdict_are_in_full() -> None:
    defense = Aware()
    before = predict_votes(defense, X, Y, SEEDS, votes=3, batch_size=4)
    target = view(defense, Search(rivals=1, timesteps=0.1))
    target(X, ROWS), target(X, ROWS)
    assert target.defense_logits(X, ROWS).isfinite().all() and defense.told[-1] is None
    after = predict_votes(defense, X, Y, SEEDS, votes=3, batch_size=4)
    assert torch.equal(before.votes, after.votes) and torch.equal(before.margins, after.margins)


def test_two_draws_of_an_image_are_narrowed_alike_and_remembered_as_their_mean() -> None:
    defense = Aware()
    target = view(defense, Search(rivals=1), eot=3, batch_size=7)
    looked = target.sample(X, ROWS)
    target(X, ROWS)
    told = torch.cat([narrowing.classes for narrowing in defense.told[3:]]).unflatten(0, (3, N))
    rivals = looked.mean(0).scatter(1, Y[:, None], -torch.inf).argmax(1)
    assert torch.equal(told[0], torch.stack([Y, rivals], 1)) and (told == told[0]).all()


def test_what_is_measured_at_a_full_look_comes_back_image_by_image_in_the_next_queries() -> None:
    class Measuring(Aware):
        def classify(self, x: Tensor) -> Tensor:
            logits = super().classify(x)
            if self.told[-1].full:
                self.told[-1].measured = x.flatten(1)
            return logits

    defense = Measuring()
    target = view(defense, Search(importance=True, timesteps=0.5, look_every=2), batch_size=4)
    for _ in range(4):
        target(X, ROWS)
    told = [torch.cat([narrowing.importance for narrowing in defense.told[start : start + 2]]) for start in (2, 6)]
    torch.testing.assert_close(told, [X.flatten(1), 2 * X.flatten(1)])


def test_a_defense_asked_image_by_image_is_narrowed_image_by_image() -> None:
    class Global(Aware):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x) + 0 * torch.rand(len(x), 1)

    defense = Global()
    target = view(defense, Search(rivals=1))
    looked, _ = target(X, ROWS), target(X, ROWS)
    rivals = looked.scatter(1, Y[:, None], -torch.inf).argmax(1)
    told = torch.cat([narrowing.classes for narrowing in defense.told[-N:]])
    assert torch.equal(told, torch.stack([Y, rivals], 1))


@pytest.mark.parametrize("options", [{"rivals": 1}, {"importance": True, "timesteps": 0.5}])
def test_a_search_that_needs_the_true_classes_says_so(options) -> None:
    with pytest.raises(ValueError, match="needs the labels"):
        view(Aware(), Search(**options), labels=None)


def test_a_search_of_as_many_rivals_as_there_are_leaves_no_class_out() -> None:
    defense = Aware()
    target = view(defense, Search(rivals=CLASSES - 1))
    target(X, ROWS), target(X, ROWS)
    assert defense.told[-1].classes is None


def test_tensor_float_32_holds_within_a_query_of_the_search_and_nowhere_else() -> None:
    class Settings(Unaware):
        def classify(self, x: Tensor) -> Tensor:
            self.seen = torch.backends.cuda.matmul.allow_tf32
            return super().classify(x)

    defense, before = Settings(), torch.backends.cuda.matmul.allow_tf32
    target = view(defense, Search(precision="tf32"))
    target(X, ROWS)
    assert defense.seen and torch.backends.cuda.matmul.allow_tf32 == before
    target.defense_logits(X, ROWS)
    assert defense.seen == before
