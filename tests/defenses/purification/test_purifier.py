"""What every purifier promises: an exact gradient in the memory of one step, noise by image, and the usual views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from defenses.adp import ADP
from defenses.ddim import DDIM
from defenses.diffpure import DiffPure
from defenses.gdmp import GDMP
from defenses.langevin import Langevin
from defenses.purification.purifier import Purifier
from defenses.rectified_flow import RectifiedFlow
from defenses.undefended import Undefended
from harness.gradients import blind, bpda, exact
from harness.quantity import Quantity
from harness.randomness import fold

pytestmark = pytest.mark.slow

Make = Callable[..., Purifier]

PURIFIERS: dict[str, Callable[[Make, int], Purifier]] = {
    "diffpure": lambda make, n: make(DiffPure, t_star=Quantity("0.1"), dt=Quantity(0.1 / n), graph_memory=0),
    "ddim": lambda make, n: make(DDIM, t_star=Quantity("0.1"), steps=n, graph_memory=0),
    "gdmp": lambda make, n: make(GDMP, t_star=Quantity("0.12"), dt=Quantity(0.12 / n), rounds=1, graph_memory=0),
    "gdmp_ssim": lambda make, n: make(
        GDMP, t_star=Quantity("0.12"), dt=Quantity(0.12 / n), rounds=1, distance="ssim", guidance=90, graph_memory=0
    ),
    "rectified_flow": lambda make, n: make(RectifiedFlow, steps=n, graph_memory=0),
    "adp": lambda make, n: trained(ADP, "digits-ncsnpp", steps=n, rate=0.2, stop=Quantity(0), graph_memory=0),
    "langevin": lambda make, n: trained(Langevin, "digits-jem", steps=n, temperature=Quantity("1e-3"), graph_memory=0),
}
"""Of n steps each, none of whose graphs is kept."""

KEPT = {"gdmp": (2, 0), "gdmp_ssim": (2, 0), "adp": (1, 1)}
"""How many images, and how many further numbers of each image, a step keeps, where that is not one image alone."""


def trained(cls: type[Purifier], weights: str, **options) -> Purifier:
    return cls(weights, Undefended("digits-cnn"), **options).double()


@pytest.fixture(params=PURIFIERS)
def name(request) -> str:
    return request.param


@pytest.fixture
def build(name, make) -> Callable[[int], Purifier]:
    """build(n): the purifier in n steps."""
    return partial(PURIFIERS[name], make)


def purified(defense: Purifier, x: Tensor, seeds: Tensor) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense.purify(x)


def objective(logits: Tensor) -> Tensor:
    return logits[:, 3].sum() - logits[:, 5].sum()


def gradient(view, defense: Purifier, x: Tensor, seeds: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with defense.drawing(seeds):
        return torch.autograd.grad(objective(view(defense, x)), x)[0]


def test_the_exact_gradient_is_what_finite_differences_say(build, x, seeds) -> None:
    defense, h = build(2), 1e-6
    x = 0.9 * x + 0.05  # away from the ends, so that a small step stays between them
    direction = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).sin().view_as(x)
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            with defense.drawing(seeds):
                ends.append(objective(defense(x + sign * h * direction)))
    slope = float(ends[0] - ends[1]) / (2 * h)
    found = float((gradient(exact, defense, x, seeds) * direction).sum())
    assert abs(slope) > 1e-3
    assert found == pytest.approx(slope, rel=1e-5)


class Counted:
    """Hooks that count the numbers that graphs hold: those alive now, and the most there were at once."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(lambda saved: Held(self, saved), lambda held: held.value)


class Held:
    def __init__(self, counted: Counted, value: Tensor) -> None:
        self.counted, self.value = counted, value
        counted.alive += value.numel()
        counted.most = max(counted.most, counted.alive)

    def __del__(self) -> None:
        self.counted.alive -= self.value.numel()


def kept(defense: Purifier, x: Tensor, seeds: Tensor) -> tuple[int, int]:
    """Numbers that `purify` keeps for its backward pass, and the most that the backward pass adds to them."""
    counted, x = Counted(), x.clone().requires_grad_()
    with counted.hooks(), defense.drawing(seeds):
        images = defense.purify(x)
        between = counted.alive
        counted.most = 0
        torch.autograd.grad(images.sum(), x)
    return between, counted.most - between


def test_an_image_is_kept_for_each_step_and_one_step_has_a_graph_at_a_time(build, name, x, seeds) -> None:
    (few, at_once), (many, still) = (kept(build(n), x, seeds) for n in (2, 5))
    images, numbers = KEPT.get(name, (1, 0))
    assert many - few == 3 * (images * x.numel() + numbers * len(x))
    assert still == at_once > 10 * x.numel()


def test_graphs_that_are_kept_change_nothing(name, make, x, seeds) -> None:
    defense = PURIFIERS[name](make, 3)
    expected = gradient(exact, defense, x, seeds)
    defense.graph_memory = 64
    torch.testing.assert_close(gradient(exact, defense, x, seeds), expected, rtol=1e-10, atol=1e-12)


def test_draws_differ_and_repeat_to_the_bit(build, x, seeds) -> None:
    defense = build(2)
    assert defense.stochastic
    assert torch.equal(purified(defense, x, seeds), purified(defense, x, seeds))
    assert (purified(defense, x, seeds) != purified(defense, x, fold(seeds, 1))).flatten(1).any(1).all()


def test_an_image_is_purified_the_same_in_any_batch_and_any_chunk(build, x, seeds) -> None:
    defense = build(2)
    whole = purified(defense, x, seeds)
    torch.testing.assert_close(purified(defense, x[1:], seeds[1:]), whole[1:])
    defense.chunk = 1
    torch.testing.assert_close(purified(defense, x, seeds), whole)


def test_views_have_the_defense_s_logits_and_bpda_the_classifier_s_gradient(build, x, seeds) -> None:
    defense = build(2)
    with defense.drawing(seeds):
        seen = {view: view(defense, x.clone().requires_grad_()) for view in (exact, bpda, blind)}
    torch.testing.assert_close(seen[bpda], seen[exact], rtol=0, atol=1e-12)
    assert not torch.allclose(seen[blind], seen[exact])
    expected = gradient(blind, defense, purified(defense, x, seeds), seeds)
    torch.testing.assert_close(gradient(bpda, defense, x, seeds), expected)


def test_purified_images_are_images_and_the_cost_counts_every_step(build, x, seeds) -> None:
    images = purified(build(2), x, seeds)
    assert images.shape == x.shape and float(images.min()) >= 0 and float(images.max()) <= 1
    per_step = build(2).cost() - build(1).cost()
    assert per_step > 0 and build(5).cost() - build(2).cost() == pytest.approx(3 * per_step)
