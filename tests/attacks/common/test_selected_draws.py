"""Which draws count, against loops, and on a linear defense some of whose draws point the wrong way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.common.losses import margin
from attacks.common.selected_draws import agreeing, everything, selected_step, standing
from attacks.pgd import PGD
from harness.attack import Adversarial
from harness.quantity import Quantity
from harness.randomness import fold, normal, uniform
from helpers.linear import Linear, NoisyLinear, target_of

N, SHAPE = 16, (1, 4, 4)
X = 0.4 + 0.2 * uniform(torch.arange(N), SHAPE)
W = normal(torch.tensor([1, 2]), (16,))


class Contradicting(Linear):
    """Of its draws, three quarters are the linear classifier; the gradient of the others is -20 times as large."""

    stochastic = True

    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        odd = uniform(fold(self.seeds_for(x), 3), (1,)) < 1 / 4
        return torch.where(odd, logits.detach() - 20 * (logits - logits.detach()), logits)


def gradient_by_loop(grads: Tensor, weights: Tensor) -> Tensor:
    return torch.stack(
        [torch.stack([g for g, w in zip(grads[:, m], weights[:, m], strict=True) if w]).mean(0) for m in range(N)]
    )


def test_standing_draws_are_those_that_are_still_right() -> None:
    logits, y = normal(torch.arange(5 * N), (3,)).view(5, N, 3), torch.arange(N) % 3
    logits[:, 0] = torch.tensor([0.0, 1.0, 0.0])  # no draw of the first image is right
    found = standing(torch.zeros(5, N, *SHAPE), logits, y)
    for m in range(N):
        right = [float(logits[d, m].argmax() == y[m]) for d in range(5)]
        assert found[:, m].tolist() == (right if any(right) else [1.0] * 5)
    assert found[:, 0].all() and not found.all()


def test_agreeing_draws_share_a_direction_whatever_their_number_and_size() -> None:
    common, scales = normal(torch.arange(N), SHAPE), torch.tensor([1e-6, 1e-3, 1.0, 1e4, -1e6, -1.0])
    grads = scales.view(6, 1, 1, 1, 1) * common + 1e-9 * normal(torch.arange(6 * N), SHAPE).view(6, N, *SHAPE)
    assert agreeing(grads, torch.zeros(6, N, 2), torch.zeros(N)).equal((scales > 0).float()[:, None].expand(6, N))


def test_draws_that_do_not_contradict_each_other_all_count() -> None:
    grads = normal(torch.arange(N), SHAPE) + 0.1 * normal(torch.arange(4 * N) + 99, SHAPE).view(4, N, *SHAPE)
    assert agreeing(grads, torch.zeros(4, N, 2), torch.zeros(N)).equal(everything(grads, grads, grads))
    assert agreeing(torch.zeros(4, N, *SHAPE), torch.zeros(4, N, 2), torch.zeros(N)).equal(torch.ones(4, N))


@pytest.mark.parametrize("select", ["all", "standing", "agreeing"])
def test_the_gradient_is_the_mean_over_the_chosen_draws(select: str) -> None:
    defense, y = NoisyLinear(W, noise=3.0), torch.zeros(N, dtype=torch.int64)
    attack = PGD("Linf", Quantity("0.1"), loss="margin", eot=2)

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        return margin(logits, y[rows]).tanh()  # so that draws have gradients of their own

    rows = torch.arange(N)
    views = [target_of(attack, defense, X).with_view(gradient="exact", eot=1) for _ in range(2)]
    found = selected_step(views[0], 7, X, rows, loss, y=y, select=select)  # type: ignore[arg-type]
    steps = [views[1].step(X, rows, loss) for _ in range(7)]
    grads, logits = torch.stack([s.grad for s in steps]), torch.stack([s.logits for s in steps])
    rules = {"all": everything, "standing": standing, "agreeing": agreeing}
    assert torch.allclose(found.grad, gradient_by_loop(grads, rules[select](grads, logits, y)), rtol=1e-4)
    assert torch.allclose(found.logits, logits.mean(0)) and views[0].forwards.tolist() == [7] * N
    assert torch.allclose(found.loss, torch.stack([s.loss for s in steps]).mean(0))


def fallen(select: str) -> Tensor:
    """The margins that the attack reaches on `Contradicting`, (N,)."""
    defense = Contradicting(W)
    y = Linear(W)(X).argmax(1)
    attack = PGD("Linf", Quantity("0.2"), steps=8, loss="margin", eot=15, random_start=False, select=select)  # type: ignore[arg-type]
    x_adv = Adversarial.of(attack.perturb(target_of(attack, defense, X), X, y)).images
    return margin(Linear(W)(x_adv), y).detach()


def test_the_draws_that_agree_lead_to_the_worst_case_where_the_mean_over_all_leads_away() -> None:
    y = Linear(W)(X).argmax(1)
    away = (Linear(W).weights[1 - y] - Linear(W).weights[y]).sign().view_as(X)
    worst = margin(Linear(W)((X + 0.2 * away).clamp(0, 1)), y).detach()
    clean = margin(Linear(W)(X), y).detach()
    assert torch.allclose(fallen("agreeing"), worst, atol=0.15 * (worst - clean).mean().item())
    assert (fallen("all") - clean).mean() < 0.2 * (worst - clean).mean()
