"""What every purifier promises: an exact gradient in the memory of one step, noise by image, and the usual views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from defenses.ddim import DDIM
from defenses.diffpure import DiffPure
from defenses.purification.purifier import Purifier
from harness.gradients import blind, bpda, exact
from harness.quantity import Quantity
from harness.randomness import fold

pytestmark = pytest.mark.slow

Make = Callable[..., Purifier]

PURIFIERS: dict[str, Callable[[Make, int], Purifier]] = {
    "diffpure": lambda make, n: make(DiffPure, t_star=Quantity("0.1"), dt=Quantity(0.1 / n), graph_memory=0),
    "ddim": lambda make, n: make(DDIM, t_star=Quantity("0.1"), steps=n, graph_memory=0),
}
"""Of n steps each, none of whose graphs is kept."""

IMAGES_PER_STEP = {"gdmp": 2}
"""How many images a step keeps for its backward pass, where that is not one."""


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


def kept(defense: Purifier, x: Tensor, seeds: Tensor) -> int:
    """Numbers that are kept for the backward pass of `purify`."""
    sizes: list[int] = []
    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: sizes.append(saved.numel()) or saved, lambda s: s):
        with defense.drawing(seeds):
            defense.purify(x)
    return sum(sizes)


def test_what_is_kept_for_the_backward_pass_grows_by_an_image_with_each_step(build, name, x, seeds) -> None:
    few, many = (kept(build(n), x, seeds) for n in (2, 5))
    assert many - few == 3 * IMAGES_PER_STEP.get(name, 1) * x.numel()


def test_a_backward_pass_has_one_step_s_graph_at_a_time(build, x, seeds) -> None:
    """The numbers that the graphs hold at once do not grow with the steps."""
    most = []
    for n in (2, 5):
        alive, peak = 0, 0

        class Held:
            def __init__(self, value: Tensor) -> None:
                nonlocal alive, peak
                self.value = value
                alive += 1
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        defense, given = build(n), x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.value), defense.drawing(seeds):
            images = defense.purify(given)
            between = alive
            torch.autograd.grad(images.sum(), given)
        most.append(peak - between)
    assert most[0] == most[1] > 20


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
