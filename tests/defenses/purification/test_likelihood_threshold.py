"""A threshold on the likelihood: images on either side of it, and the gradient through a smooth one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from defenses.ddim import DDIM
from defenses.diffusion.denoiser import NO_CLASS
from defenses.likelihood_maximizer import LikelihoodMaximizer
from defenses.likelihood_threshold import LIKELIHOOD, LikelihoodThreshold
from defenses.undefended import Undefended
from harness import datasets
from harness.errors import UserError
from harness.gradients import VIEWS
from harness.quantity import Quantity
from harness.randomness import fold

pytestmark = pytest.mark.slow


def build(threshold: float, purifier=None, **options) -> LikelihoodThreshold:
    inner = purifier or DDIM("digits-ncsnpp", Undefended("digits-cnn"), t_star=Quantity("0.15"), steps=2)
    return LikelihoodThreshold("digits-ncsnpp", inner, threshold, timesteps=3, **options).double()


def losses(defense: LikelihoodThreshold, x: Tensor, seeds: Tensor) -> Tensor:
    """L, term by term in one graph."""
    own, grid, total = fold(seeds, LIKELIHOOD), defense.loss.grid, torch.zeros(len(x), dtype=x.dtype)
    none = torch.full((len(x),), NO_CLASS)
    for t, signal, sigma, weight in zip(grid.timesteps, grid.signal, grid.sigma, grid.weights, strict=True):
        eps = defense.loss.noise(own, none, t.expand(len(x)), torch.zeros_like(none), x.shape[1:], x.dtype)
        found = defense.denoiser.eps(signal * (2 * x - 1) + sigma * eps, t.expand(len(x)))
        total = total + weight * (found - eps).square().mean((1, 2, 3))
    return total


def test_images_above_the_threshold_are_purified_and_the_others_are_not_touched(x, seeds) -> None:
    likely = datasets.load("digits", "test").images[:1].double()
    x = torch.cat([likely, torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=x.dtype)])
    defense = build(0.0)
    with torch.no_grad(), defense.drawing(seeds):
        found, purified = losses(defense, x, seeds), defense.purify(x)
        torch.testing.assert_close(defense.unlikelihood(x), found)
        torch.testing.assert_close(defense.energy(x), 64 * found)
    assert found[0] < found[1]
    defense.threshold = float(found.mean())
    with torch.no_grad(), defense.drawing(seeds):
        gated = defense.purify(x)
    assert torch.equal(gated[0], x[0])
    torch.testing.assert_close(gated[1], purified[1])
    assert not torch.allclose(gated[1], x[1])


@pytest.mark.parametrize("width", [0.0, 0.05])
def test_images_and_gradients_are_those_of_the_formula_in_one_graph(x, seeds, width) -> None:
    defense = build(0.0, width=width)
    with torch.no_grad(), defense.drawing(seeds):
        defense.threshold = float(defense.unlikelihood(x).mean())
    x.requires_grad_()
    with defense.drawing(seeds):
        found, purified = defense.purify(x), defense.purifier.purify(x)
    excess = losses(defense, x, seeds) - defense.threshold
    share = (excess / width).sigmoid() if width else (excess > 0).double()
    expected = x + share[:, None, None, None] * (purified - x)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    weights = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 1, 8, 8)
    ours, theirs = (
        torch.autograd.grad((images * weights).sum(), x, retain_graph=True)[0] for images in (found, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_an_image_is_purified_the_same_in_any_batch_and_any_chunk(x, seeds) -> None:
    defense = build(0.5, width=0.2)
    with torch.no_grad():
        with defense.drawing(seeds):
            whole = defense(x)
        with defense.drawing(seeds[1:]):
            alone = defense(x[1:])
    torch.testing.assert_close(alone, whole[1:])


def test_views_of_the_purifier_are_views_of_the_whole(x, seeds) -> None:
    maximizer = LikelihoodMaximizer("digits-ncsnpp", Undefended("digits-cnn"), timesteps=2, steps=2)
    defense = build(0.0, maximizer)
    for view in ("exact", "bpda", "tanh", "straight_through"):
        given = x.clone().requires_grad_()
        with defense.drawing(seeds):
            logits = VIEWS[view](defense, given)
            expected = defense(x)
        torch.testing.assert_close(logits, expected)
        assert bool(torch.autograd.grad(logits[:, 3].sum(), given)[0].any())


def test_the_cost_counts_likelihood_purifier_and_classifier() -> None:
    assert build(0.0).cost() == 3 + (2 + 1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"width": -1.0}, "width is -1"), ({"samples": 0}, "samples is 0"), ({"chunk": 0}, "chunk is 0")],
)
def test_arguments_that_mean_nothing_are_refused(options, complaint) -> None:
    with pytest.raises(UserError) as error:
        build(0.0, **options)
    assert complaint in str(error.value)
