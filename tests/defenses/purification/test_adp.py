"""ADP against its formulas in one graph, and on a Gaussian, where a step's length is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from defenses.adp import ADP
from defenses.diffusion.schedule import discrete_vp
from defenses.purification.purifier import FORWARD, PURIFY
from defenses.undefended import Undefended
from harness import datasets
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fold, normal

pytestmark = pytest.mark.slow


def trained(**options) -> ADP:
    """On a network whose density is curved as it should be, which that of a random one is not."""
    return ADP("digits-ncsnpp", Undefended("digits-cnn"), **options).double()


def score(defense: ADP, x: Tensor) -> Tensor:
    """-eps / sigma, but for the level, which is that of the discrete time nearest to 2 sigma."""
    process, tau = discrete_vp(), 2 * defense.sigma
    levels = (process.sigmas / process.signals).log()
    t = int((levels - torch.tensor(tau, dtype=torch.float64).log()).abs().argmin()) + 1
    level = float(levels[t - 1].exp())
    eps = defense.denoiser.network(process.signals[t - 1] * (2 * x - 1), torch.full((len(x),), t - 1), None)
    return -level / 2 * eps / defense.sigma**2


def naive(defense: ADP, image: Tensor, seeds: Tensor, steps: int, rate: float, stop: float) -> tuple[Tensor, Tensor]:
    """The purified image and how many steps each image took, in one graph, image by image."""
    ends, counts = [], []
    for i in range(len(image)):
        eps = normal(fold(seeds, PURIFY, FORWARD), (1, 8, 8), torch.float64)[i : i + 1]
        x, count = (image[i : i + 1] + defense.sigma * eps).clamp(0, 1), 0
        for _ in range(steps):
            g = score(defense, x)
            ahead = score(defense, x + 1e-3 * g)
            length = (rate * 1e-3 / (1 - (g * ahead).sum() / (g * g).sum())).clamp(1e-5, 0.1)
            assert 1e-5 < float(length.detach()) < 0.1
            if float(length.detach()) <= stop:
                break
            x, count = (x + length * g).clamp(0, 1), count + 1
        ends.append(x)
        counts.append(count)
    return torch.cat(ends), torch.tensor(counts)


@pytest.mark.parametrize("stops", [False, True])
def test_images_and_gradients_are_those_of_the_formulas_in_one_graph(seeds, stops) -> None:
    x = datasets.load("digits", "test").images[:2].double()
    steps, rate, stop = 4, 0.1, 0.0
    if stops:  # between the lengths of the steps that the two images take, so that they stop at different steps
        stop = first_lengths(trained(rate=rate), x, seeds, rate)
    defense = trained(steps=steps, rate=rate, stop=Quantity(stop))
    x.requires_grad_()
    with defense.drawing(seeds):
        found = defense.purify(x)
    expected, counts = naive(defense, x, seeds, steps, rate, stop)
    assert (int(counts.min()) < int(counts.max())) if stops else bool((counts == steps).all())
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    weights = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 1, 8, 8)
    ours, theirs = (torch.autograd.grad((images * weights).sum(), x)[0] for images in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def first_lengths(defense: ADP, x: Tensor, seeds: Tensor, rate: float) -> float:
    """The middle between the lengths of the first steps of two images."""
    noisy = (x + defense.sigma * normal(fold(seeds, PURIFY, FORWARD), (1, 8, 8), torch.float64)).clamp(0, 1)
    g = score(defense, noisy)
    straight = (g * score(defense, noisy + 1e-3 * g)).sum((1, 2, 3)) / (g * g).sum((1, 2, 3))
    return float((rate * 1e-3 / (1 - straight)).clamp(1e-5, 0.1).mean())


class Gaussian(nn.Module):
    """The noise predictor of images (2 image - 1) ~ N(0, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.process = discrete_vp()

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.process.sigma(t)[:, None, None, None] * x_t  # alpha + sigma^2 = 1 is the variance of x_t


def test_on_gaussian_images_a_step_is_the_given_share_of_newton_s(make, x) -> None:
    defense = make(ADP, rate=0.3)
    defense.denoiser = Gaussian()
    process = discrete_vp()
    t = process.time(torch.tensor(2 * defense.sigma))
    curvature = float(2 * process.sigma(t) * process.signal(t) * process.level(t) / (2 * defense.sigma**2))
    length = defense._length(x, defense.score(x))
    assert 1e-5 < 0.3 / curvature < 0.1
    torch.testing.assert_close(length, torch.full_like(length, 0.3 / curvature), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"sigma": Quantity(0)}, "sigma is 0"),
        ({"sigma": Quantity(1000)}, "sigma is 1000"),
        ({"rate": -1.0}, "rate is -1"),
        ({"stop": Quantity(-1)}, "stop is -1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(ADP, **options)
    assert complaint in str(error.value)
