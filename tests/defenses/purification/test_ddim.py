"""DDIM against its formula in one graph, against denoised smoothing, and on a model whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from defenses.ddim import DDIM
from defenses.denoised_smoothing import DenoisedSmoothing
from defenses.diffusion.reverse import Implicit, denoised, spread_times
from defenses.diffusion.schedule import discrete_vp
from defenses.purification.purifier import FORWARD, PURIFY
from defenses.undefended import Undefended
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fold, normal
from harness.suite import load_suite

pytestmark = pytest.mark.slow


def naive(defense: DDIM, x: Tensor, seeds: Tensor) -> Tensor:
    """Two rounds of t* = 0.1 in three steps, in one graph."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = [1.0, *(1 - betas).cumprod(0).tolist()]
    x = 2 * x - 1
    for number in range(2):
        eps = normal(fold(seeds, PURIFY, number, FORWARD), (1, 8, 8), torch.float64)
        x = math.sqrt(alpha[100]) * x + math.sqrt(1 - alpha[100]) * eps
        for t, after in ((100, 67), (67, 33), (33, 0)):
            e = defense.denoiser.network(x, torch.full((len(x),), t - 1))
            clean = (x - math.sqrt(1 - alpha[t]) * e) / math.sqrt(alpha[t])
            x = math.sqrt(alpha[after]) * clean + math.sqrt(1 - alpha[after]) * e
    return ((x + 1) / 2).clamp(0, 1)


def test_images_and_gradients_are_those_of_the_formula_in_one_graph(make, x, seeds) -> None:
    defense = make(DDIM, t_star=Quantity("0.1"), steps=3, rounds=2)
    x.requires_grad_()
    with defense.drawing(seeds):
        found = defense.purify(x)
    expected = naive(defense, x, seeds)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 1, 8, 8)
    ours, theirs = (torch.autograd.grad((images * weights).sum(), x)[0] for images in (found, expected))
    assert float(theirs.abs().max()) > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_one_step_is_the_denoising_step_of_denoised_smoothing_at_the_same_level(make, x, seeds) -> None:
    """Which asks the network about the same noisy image, scaled, at the time of the level."""
    defense = make(DDIM, t_star=Quantity("0.2"), steps=1)
    process, eps = discrete_vp(), normal(fold(seeds, PURIFY, 0, FORWARD), (1, 8, 8), torch.float64)
    sigma = float(process.level(torch.tensor(200))) / 2
    smoothed = DenoisedSmoothing("digits-ncsnpp", Undefended("digits-cnn"), Quantity(sigma))
    smoothed.denoiser = defense.denoiser
    with torch.no_grad(), defense.drawing(seeds):
        torch.testing.assert_close(defense.purify(x), smoothed.purify_noisy(x + sigma * eps))


class Known:
    """The noise predictor of a single image: all that differs from it is noise."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.process = image, discrete_vp()

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        signal, sigma = (values[:, None, None, None] for values in (self.process.signal(t), self.process.sigma(t)))
        return (x_t - signal * self.image) / sigma


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_perfect_model_of_one_image_returns_it_in_any_number_of_steps(x, steps) -> None:
    sampler = Implicit(Known(x[:1]), discrete_vp(), spread_times(0.3, steps, last=1000))
    noisy = sampler.noised(x[1:], torch.ones_like(x[1:]))
    torch.testing.assert_close(denoised(sampler, noisy, lambda i: torch.zeros(())), x[:1])


def test_many_steps_of_ddim_and_of_the_flow_it_solves_agree(make, x, seeds) -> None:
    coarse, fine, finest = (make(DDIM, t_star=Quantity("0.1"), steps=steps) for steps in (5, 50, 100))
    found = []
    for defense in (coarse, fine, finest):
        with torch.no_grad(), defense.drawing(seeds):
            found.append(defense.purify(x))
    assert float((found[1] - found[2]).norm()) < 0.3 * float((found[0] - found[2]).norm())


def test_steps_are_whole_ones_of_the_diffusion_and_about_equally_long() -> None:
    assert spread_times(0.1, 4, last=1000) == [100, 75, 50, 25, 0]
    assert spread_times(0.005, 5, last=1000) == [5, 4, 3, 2, 1, 0]
    for steps in range(1, 38):
        times = spread_times(0.037, steps, last=1000)
        assert len(set(times)) == steps + 1 and times[0] == 37 and times[-1] == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"t_star": Quantity("1.5")}, "t_star is 1.5"),
        ({"t_star": Quantity("0.0005")}, "t_star is 0.0005"),
        ({"steps": 0}, "steps is 0"),
        ({"t_star": Quantity("0.01"), "steps": 11}, "steps is 11"),
        ({"rounds": 0}, "rounds is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"graph_memory": -1}, "graph_memory is -1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(DDIM, **options)
    assert complaint in str(error.value)


SUITE = """
suite: s
dataset: {name: digits, first: 2}
x-purifier: &purifier {weights: digits-ncsnpp, classifier: {type: undefended, weights: digits-cnn}, t_star: 0.15}
defenses:
  ddim: {<<: *purifier, steps: 4}
  once: {<<: *purifier, type: one_step_denoising}
attacks: {linf: {type: pgd, norm: Linf, eps: 8/255}}
"""


def test_a_suite_names_ddim_and_one_step_denoising(tmp_path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    cells = load_suite(tmp_path / "suite.yaml").cells
    assert [cell.defense.build().cost() for cell in cells] == [4 + 1, 1 + 1]
