from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.attack import Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.randomness import fold, normal, uniform
from harness.target import Target


class Noisy(Defense):
    """A linear classifier behind additive noise drawn per image."""

    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(normal(torch.arange(3), (4,)))
        self.batches: list[int] = []

    def purify(self, x: Tensor) -> Tensor:
        return x + normal(self.seeds_for(x), x.shape[1:])

    def classify(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x.flatten(1).tanh() @ self.weights.T


class Quiet(Noisy):
    stochastic = False

    def purify(self, x: Tensor) -> Tensor:
        return x


N = 6
X, SEEDS = uniform(torch.arange(N), (1, 2, 2)), torch.arange(N) * 17 + 3
ROWS = torch.arange(N)


def first_logit(logits: Tensor, rows: Tensor) -> Tensor:
    return logits[:, 0] * (1 + rows)


def test_an_answer_is_the_mean_over_independent_draws() -> None:
    draws = Target(Noisy(), X, SEEDS, eot=5).sample(X, ROWS)
    assert draws.shape == (5, N, 3)
    assert len(draws[:, 0, 0].unique()) == 5
    assert torch.allclose(Target(Noisy(), X, SEEDS, eot=5)(X, ROWS), draws.mean(0))


def test_noise_is_a_function_of_the_image_seed_its_query_number_and_the_draw() -> None:
    defense = Noisy()
    target = Target(defense, X, SEEDS, eot=2)
    target(X, ROWS)
    draws = target.sample(X, ROWS)
    for draw in range(2):
        with defense.drawing(fold(SEEDS, 2, draw)):
            assert torch.allclose(draws[draw], defense(X))


def test_repeated_queries_draw_fresh_noise() -> None:
    target = Target(Noisy(), X, SEEDS)
    assert (target(X, ROWS) != target(X, ROWS)).any(1).all()


def test_an_images_noise_does_not_depend_on_the_batch() -> None:
    together = Target(Noisy(), X, SEEDS, eot=3).step(X, ROWS, first_logit)
    some = torch.tensor([4, 0, 3])
    apart = Target(Noisy(), X, SEEDS, eot=3).step(X[some], some, first_logit)
    for a, b in [(apart.loss, together.loss), (apart.grad, together.grad), (apart.logits, together.logits)]:
        assert torch.allclose(a, b[some], atol=1e-6)


@pytest.mark.parametrize("defense", [Noisy, Quiet])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_a_batched_step_equals_an_unbatched_one(defense: type[Noisy], batch_size: int) -> None:
    whole = Target(defense(), X, SEEDS, eot=3).step(X, ROWS, first_logit)
    split_defense = defense()
    split = Target(split_defense, X, SEEDS, eot=3, batch_size=batch_size).step(X, ROWS, first_logit)
    for a, b in [(whole.loss, split.loss), (whole.grad, split.grad), (whole.logits, split.logits)]:
        assert torch.allclose(a, b, atol=1e-6)
    assert max(split_defense.batches) <= batch_size


def test_a_step_is_the_mean_over_draws_of_loss_and_gradient() -> None:
    defense = Noisy()
    step = Target(defense, X, SEEDS, eot=4).step(X, ROWS, first_logit)
    losses, grads = [], []
    for draw in range(4):
        x = X.clone().requires_grad_()
        with defense.drawing(fold(SEEDS, 0, draw)):
            loss = first_logit(defense(x), ROWS)
        losses.append(loss.detach())
        grads.append(torch.autograd.grad(loss.sum(), x)[0])
    assert torch.allclose(step.loss, torch.stack(losses).mean(0), atol=1e-6)
    assert torch.allclose(step.grad, torch.stack(grads).mean(0), atol=1e-6)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(("defense", "draws"), [(Noisy, 3), (Quiet, 1)])
def test_passes_are_counted_per_image_exactly(defense: type[Noisy], draws: int, given: bool) -> None:
    target = Target(defense(), X, SEEDS, eot=3, batch_size=4)
    some = torch.tensor([5, 1])
    near = (X[some] + 0.01).requires_grad_()
    logits = target(near, some if given else None)
    expected = torch.zeros(N, dtype=torch.int64)
    expected[some] = draws
    assert target.forwards.equal(expected)
    assert target.backwards.sum() == 0
    logits.sum().backward()
    assert target.backwards.equal(expected)


def test_a_backward_pass_run_twice_counts_twice() -> None:
    target = Target(Quiet(), X, SEEDS)
    x = X.clone().requires_grad_()
    logits = target(x)
    logits.sum().backward(retain_graph=True)
    logits.sum().backward()
    assert target.backwards.tolist() == [2] * N


def test_an_answer_without_a_differentiable_image_keeps_no_graph() -> None:
    assert not Target(Quiet(), X, SEEDS)(X, ROWS).requires_grad
    with torch.no_grad():
        assert not Target(Quiet(), X, SEEDS)(X.clone().requires_grad_(), ROWS).requires_grad


def test_the_real_defense_answers_whatever_the_view_and_is_counted() -> None:
    defense = Noisy()
    target = Target(defense, X, SEEDS, gradient="blind", eot=2)
    real = target.defense_logits(X, ROWS)
    assert target.forwards.tolist() == [2] * N
    assert torch.allclose(real, Target(defense, X, SEEDS, gradient="exact", eot=2)(X, ROWS))


def test_a_target_that_asks_another_defense_counts_together_with_the_first() -> None:
    class Zero(Defense):
        def classify(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1)[:, :2]

    x, rows = uniform(torch.arange(3), (1, 2, 2)), torch.tensor([2, 0])
    target = Target(Noisy(), x, torch.arange(3))
    other = target.with_defense(Zero())
    assert not other(x[rows], rows).any() and target(x[rows], rows).any()
    assert target.forwards.tolist() == other.forwards.tolist() == [2, 0, 2]


def test_querying_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    Target(Noisy(), X, SEEDS, eot=2).step(X, ROWS, first_logit)
    assert torch.random.get_rng_state().equal(before)


class Energetic(Attack):
    needs = ("energy",)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return x

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)


def test_an_attack_names_what_it_misses_in_a_defense() -> None:
    defense = Quiet()
    assert "energy(x), which Quiet does not have" in str(Energetic().unsuitable(defense))
    defense.energy = lambda x: x.sum()
    assert Energetic().unsuitable(defense) is None


def test_no_draws_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Energetic(eot=0)


class Mixed(Quiet):
    """Logits of some type, from a network in float32; an energy of that type too."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).to(self.dtype)

    def energy(self, x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1).to(self.dtype)


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float64, 1e-6)])
def test_logits_of_any_type_are_float32_for_an_attack_and_so_are_energies(dtype: torch.dtype, accuracy: float) -> None:
    plain, other = (
        Target(Mixed(kind), X, SEEDS).step(X, ROWS, first_logit, energy=0.5) for kind in (torch.float32, dtype)
    )
    for a, b in [(plain.loss, other.loss), (plain.grad, other.grad), (plain.logits, other.logits)]:
        assert b.dtype == torch.float32
        assert torch.allclose(a, b, rtol=accuracy, atol=accuracy)
    x = X.clone().requires_grad_()
    assert Target(Mixed(dtype), X, SEEDS)(x).dtype == torch.float32
    assert Target(Mixed(dtype), X, SEEDS).defense_logits(x).dtype == torch.float32
    assert Target(Mixed(dtype), X, SEEDS, eot=3).sample(x).dtype == torch.float32


class Overwrites(Quiet):
    """Writes into what it is given, wherever that is."""

    def purify(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x.sub_(0.25))


class Copies(Quiet):
    """The same without writing."""

    def purify(self, x: Tensor) -> Tensor:
        return x * 0.5

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x - 0.25)


@pytest.mark.parametrize("gradient", ["exact", "bpda", "blind"])
def test_a_defense_that_writes_into_its_input_changes_no_image_and_is_differentiated_all_the_same(
    gradient: Gradient,
) -> None:
    images = X.clone()
    answers = []
    for defense in (Overwrites(), Copies()):
        target = Target(defense, images, SEEDS, gradient=gradient, batch_size=4)
        x = images.clone().requires_grad_()
        logits = target(x, ROWS)
        (grad,) = torch.autograd.grad(logits.square().sum(), x)
        answers.append(
            (logits, grad, target(images), target.defense_logits(images), target.step(images, ROWS, first_logit).grad)
        )
        assert torch.equal(x, X) and torch.equal(images, X)
    assert all(torch.allclose(a, b) for a, b in zip(*answers, strict=True))
