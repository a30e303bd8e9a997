"""GDMP against its formulas in one graph, and SSIM against loops over windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.diffpure import DiffPure
from defenses.gdmp import GDMP, GUIDE
from defenses.purification.purifier import FORWARD, PURIFY
from defenses.purification.ssim import ssim
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fold, normal

pytestmark = pytest.mark.slow

OPTIONS = {"t_star": Quantity("0.1"), "dt": Quantity("0.05")}


def naive(defense: GDMP, image: Tensor, seeds: Tensor, *, mse: bool) -> Tensor:
    """Two rounds of two steps, 100 -> 50 -> 0, in one graph; only the first of the two has noise, and guidance."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = [1.0, *(1 - betas).cumprod(0).tolist()]
    network, original = defense.denoiser.network, 2 * image - 1
    x = original
    for number in range(2):

        def eps(step: int, number: int = number) -> Tensor:
            return normal(fold(seeds, PURIFY, number, step), (1, 8, 8), torch.float64)

        x = math.sqrt(alpha[100]) * x + math.sqrt(1 - alpha[100]) * eps(FORWARD)
        b = 1 - alpha[100] / alpha[50]
        reference = math.sqrt(alpha[100]) * original + math.sqrt(1 - alpha[100]) * eps(GUIDE)
        distance = (x - reference).square().sum() if mse else -ssim(x, reference).sum()
        (away,) = torch.autograd.grad(distance, x, create_graph=True)
        scale = defense.guidance * math.sqrt((1 - alpha[100]) / alpha[100])
        predicted = network(x, torch.full((len(x),), 99))
        mean = (x - b / math.sqrt(1 - alpha[100]) * predicted) / math.sqrt(1 - b)
        x = mean - b * scale * away + math.sqrt(b) * eps(0)
        b = 1 - alpha[50]
        x = (x - b / math.sqrt(1 - alpha[50]) * network(x, torch.full((len(x),), 49))) / math.sqrt(1 - b)
    return ((x + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize(("distance", "guidance"), [("mse", 9.3), ("ssim", 200.0)])
def test_images_and_gradients_are_those_of_the_formulas_in_one_graph(make, x, seeds, distance, guidance) -> None:
    defense = make(GDMP, **OPTIONS, rounds=2, distance=distance, guidance=guidance)
    x.requires_grad_()
    with defense.drawing(seeds):
        found = defense.purify(x)
    expected = naive(defense, x, seeds, mse=distance == "mse")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 1, 8, 8)
    ours, theirs = (torch.autograd.grad((images * weights).sum(), x)[0] for images in (found, expected))
    assert float(theirs.abs().max()) > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_without_guidance_it_is_diffpure_by_ddpm(make, x, seeds) -> None:
    guided, plain = make(GDMP, **OPTIONS, rounds=2, guidance=0), make(DiffPure, **OPTIONS, rounds=2, solver="ddpm")
    with torch.no_grad(), guided.drawing(seeds), plain.drawing(seeds):
        torch.testing.assert_close(guided.purify(x), plain.purify(x))


def test_guidance_keeps_the_image_nearer_to_what_it_was(make, x, seeds) -> None:
    distances = []
    for guidance in (0, 10):
        defense = make(GDMP, t_star=Quantity("0.1"), dt=Quantity("0.01"), rounds=2, guidance=guidance)
        with torch.no_grad(), defense.drawing(seeds):
            distances.append(float((defense.purify(x) - x).norm()))
    assert distances[1] < distances[0]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"guidance": -1}, "guidance is -1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"dt": Quantity("0.0005")}, "dt is 0.0005"),
        ({"t_star": Quantity("2")}, "t_star is 2"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(GDMP, **options)
    assert complaint in str(error.value)


# --- SSIM ----------------------------------------------------------------------------------------------------------


def by_windows(x: np.ndarray, y: np.ndarray, size: int) -> float:
    """SSIM of two images (H, W) in [-1, 1], window by window."""
    place = np.arange(size) - size // 2
    weights = np.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    found = []
    for i in range(x.shape[0] - size + 1):
        for j in range(x.shape[1] - size + 1):
            a, b = x[i : i + size, j : j + size], y[i : i + size, j : j + size]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
            found.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize(("shape", "size"), [((8, 8), 7), ((13, 12), 11), ((5, 5), 5)])
def test_ssim_is_the_mean_over_windows_and_channels(shape, size) -> None:
    x, y = torch.rand(2, 2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    channels = [[by_windows(x[i, c].numpy(), y[i, c].numpy(), size) for c in range(3)] for i in range(2)]
    expected = np.mean(channels, axis=1)
    torch.testing.assert_close(ssim(x, y), torch.from_numpy(expected))


def test_the_second_derivative_of_ssim_passes_gradgradcheck() -> None:
    x, y = (torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (1, 2))
    assert torch.autograd.gradgradcheck(ssim, (x.requires_grad_(), y.requires_grad_()))
