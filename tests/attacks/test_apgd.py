"""Auto-PGD, against the library's."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor

from attacks.apgd import APGD, _spans, apgd_steps
from attacks.common.gradient_attack import BestIterates, Objective
from attacks.common.losses import loss_of, margin
from harness.config.registry import find
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import TOLERANCE
from helpers.linear import Linear, NoisyLinear, target_of

N, SHAPE, K = 12, (2, 4, 4), 5
X = 0.3 + 0.4 * uniform(torch.arange(N), SHAPE)


class Curved(Defense):
    """A small smooth network."""

    def __init__(self) -> None:
        super().__init__()
        size = X[0].numel()
        self.register_buffer("inner", normal(torch.arange(20), (size,)) / 3)
        self.register_buffer("outer", normal(torch.arange(20, 20 + K), (20,)) / 3)

    def classify(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.inner.T) @ self.outer.T


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("steps", [5, 30])
def test_it_ends_where_the_library_does(norm: str, steps: int) -> None:
    defense, eps = Curved(), {"Linf": 0.02, "L2": 0.15}[norm]
    y = defense(X).argmax(1)
    library = APGDAttack(defense, n_iter=steps, norm=norm, eps=eps, loss="ce", eot_iter=1, seed=0, device="cpu")
    library.init_hyperparam(X)
    top, *_ = library.attack_single_run(X, y, x_init=X.clone())

    target, best = Target(defense, X, torch.arange(N)), BestIterates.of(X, y)
    oracle = Objective(target, loss_of("ce-plain", y), 0.0, False)
    attack = APGD(norm, Quantity(eps), steps=steps)  # type: ignore[arg-type]
    climb = apgd_steps(best, X, X, torch.arange(N), oracle, attack.threat, steps, stops=False)
    climb.observe(target.step(climb.images, climb.rows, oracle.loss))  # the library looks at the last iterate as well
    losses = [F.cross_entropy(defense(images), y, reduction="none") for images in (climb.top, top)]
    assert torch.allclose(*losses, atol=1e-6)
    assert torch.allclose(climb.top, top, atol=1e-5 if steps == 5 else 1e-3)  # late steps on a flat top are rounding
    assert (margin(defense(best.images), y) >= margin(defense(top), y) - 1e-5).all()


def test_checkpoints_are_the_published_ones() -> None:
    """w_j for 100 steps: 22, 41, 57, 70, 80, 87, 93, 99."""
    spans, at, found = _spans(100), 0, []
    while (at := at + next(spans)) < 100:
        found.append(at)
    assert found == [22, 41, 57, 70, 80, 87, 93, 99]


def test_costs_are_what_is_spent() -> None:
    defense, y = Linear(1e-6 * normal(torch.arange(3), (32,)), torch.tensor([1.0, 0, 0])), torch.zeros(N).long()
    for attack in (APGD("Linf", Quantity("0.1"), steps=7), APGD("Linf", Quantity("0.1"), 7, "dlr-targeted", 2)):
        wide = Linear(1e-6 * normal(torch.arange(4), (32,)), torch.tensor([1.0, 0, 0, 0]))
        target = target_of(attack, defense if attack.loss == "dlr" else wide, X)
        attack.perturb(target, X, y)
        assert target.forwards.tolist() == [attack.cost(4).forwards] * N
        assert target.backwards.tolist() == [attack.cost(4).backwards] * N


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_images_stay_within_the_budget(
    norm: str,
) -> None:
    defense = NoisyLinear(5 * normal(torch.arange(4), (32,)), noise=0.3)
    attack = APGD(norm, Quantity("0.1"), steps=10, eot=2)  # type: ignore[arg-type]
    found = attack.perturb(target_of(attack, defense, X), X, torch.zeros(N).long())
    assert attack.threat.violation(X, found).max() <= TOLERANCE


def test_presets_say_what_they_run() -> None:
    eps, preset = Quantity("8/255"), partial(find, "attacks")
    assert preset("apgd_dlr_100")("Linf", eps).describe() == "apgd, 100 steps, 5 restarts, dlr loss"
    assert preset("bpda")("Linf", eps).describe() == "apgd, bpda, 100 steps, dlr loss"
    assert preset("exact_gradient")("Linf", eps, eot=3).describe() == "apgd, EOT 3, 100 steps, dlr loss"
    paper = preset("pgd80_eot10")("Linf", eps)
    assert paper.describe() == "pgd, EOT 10, 80 steps, ce loss" and paper.step_size == 1 / 255
    assert preset("pgd80_eot10")("L2", Quantity("0.5")).step_size == 2.5 * 0.5 / 80


@pytest.mark.slow
def test_the_papers_attack_goes_on_after_a_lucky_draw_with_restarts_that_start_elsewhere() -> None:
    """Five restarts of 100 gradients and a last look each; a defense that is always misclassified is asked as often."""

    class Lucky(Defense):
        num_classes, stochastic = 3, True

        def classify(self, x: Tensor) -> Tensor:
            starts.append(x.detach().clone())
            return torch.stack([0 * x.flatten(1).sum(1), 1 + x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)

    starts: list[Tensor] = []
    attack, y = find("attacks", "apgd_dlr_100")("Linf", Quantity("0.1")), torch.zeros(N).long()
    target = target_of(attack, Lucky(), X)
    attack.perturb(target, X, y)
    assert target.forwards.tolist() == [attack.cost(3).forwards] * N == [5 * 101] * N
    assert target.backwards.tolist() == [attack.cost(3).backwards] * N == [5 * 100] * N
    first = starts[::101]
    assert len(first) == 5 and not any(torch.equal(first[0], other) for other in first[1:])


def test_l1_is_refused() -> None:
    with pytest.raises(ValueError, match="another algorithm"):
        APGD("L1", Quantity(3))
