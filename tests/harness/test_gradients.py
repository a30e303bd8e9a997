from __future__ import annotations

import torch
from torch import Tensor

from harness.defense import Defense
from harness.gradients import VIEWS, Gradient
from harness.randomness import normal, uniform


class Shattered(Defense):
    """Rounds to eight levels, then adds noise, then a linear classifier; the surrogate is a squeeze."""

    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", normal(torch.arange(12), (4,)))
        self.asked: list[str] = []

    def purify(self, x: Tensor) -> Tensor:
        self.asked.append("purify")
        return ((x * 8).round() / 8 + 0.1 * normal(self.seeds_for(x), x.shape[1:])).clamp(0, 1)

    def purify_surrogate(self, x: Tensor) -> Tensor:
        return 0.9 * x

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1).square() @ self.weights.T


X, SEEDS = uniform(torch.arange(6), (1, 2, 2)), torch.arange(6) + 40


def view(name: Gradient, defense: Defense, x: Tensor) -> Tensor:
    with defense.drawing(SEEDS):
        return VIEWS[name](defense, x)


def test_bpda_has_the_forward_value_of_the_defense_to_the_bit() -> None:
    defense = Shattered()
    assert view("bpda", defense, X).equal(view("exact", defense, X))
    x = X.clone().requires_grad_()
    assert view("bpda", defense, x).equal(view("exact", defense, X))


def test_bpda_has_the_gradient_of_the_surrogate_at_the_purified_image() -> None:
    defense, x = Shattered(), X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(view("bpda", defense, x)[:, 0].sum(), x)
    with defense.drawing(SEEDS):
        purified = defense.purify(X)
    expected = 0.9 * 2 * purified * defense.weights[0].view(1, 1, 2, 2)
    assert torch.allclose(grad, expected, atol=1e-6)


def test_bpda_differentiates_around_a_purifier_that_goes_through_numpy() -> None:
    class Through(Shattered):
        def purify(self, x: Tensor) -> Tensor:
            return torch.from_numpy(super().purify(x).numpy())

    defense, x = Through(), X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(view("bpda", defense, x)[:, 0].sum(), x)
    (expected,) = torch.autograd.grad(view("bpda", Shattered(), x)[:, 0].sum(), x)
    assert grad.equal(expected) and grad.any()


def test_exact_differentiates_the_purification_itself() -> None:
    defense, x = Shattered(), X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(view("exact", defense, x)[:, 0].sum(), x)
    assert grad.eq(0).all()


def test_blind_ignores_the_purification() -> None:
    defense = Shattered()
    logits = view("blind", defense, X)
    assert defense.asked == []
    assert logits.equal(defense.classify(X))
