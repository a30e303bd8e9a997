"""Corruptions against closed-form statistics, Pillow, scipy and colorsys."""

from __future__ import annotations

import colorsys
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates, uniform_filter
from torch import Tensor

from harness.quantity import Quantity
from harness.randomness import fold, normal, uniform
from harness.threat import TOLERANCE
from harness.threats import CORRUPTIONS
from harness.threats.corruption import SEEDS, SEVERITIES, Corruption
from harness.threats.distortions import GlassBlur, Spatter, displaced, mapped, smooth

SHAPES = ((1, 8, 8), (1, 28, 28), (3, 32, 32))
CASES = [(name, shape) for name in CORRUPTIONS for shape in SHAPES if shape[0] in CORRUPTIONS[name].channels]
X = (uniform(torch.arange(2), (3, 32, 32)) * 255).round() / 255
SMOOTH = torch.from_numpy(gaussian_filter(X.numpy(), (0, 0, 2, 2)))
SMOOTH = (((SMOOTH - SMOOTH.min()) / (SMOOTH.max() - SMOOTH.min())) * 255).round() / 255
"""Images such as JPEG is made for."""


def corrupted(name: str, severity: int, x: Tensor, seed: int = 0) -> Tensor:
    threat = CORRUPTIONS[name](Quantity(severity))
    return threat.render(x, threat.parameters(torch.arange(len(x)) + seed))


def grey(value: float, count: int = 20) -> Tensor:
    return torch.full((count, 1, 32, 32), value)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_every_severity_is_within_its_budget_and_no_more_than_that(name: str, shape: tuple[int, ...]) -> None:
    x = (uniform(torch.arange(3), shape) * 255).round() / 255
    for severity in range(1, SEVERITIES + 1):
        threat = CORRUPTIONS[name](Quantity(severity))
        z = threat.parameters(torch.arange(3) * 10**9)
        x_adv = threat.render(x, z)
        assert x_adv.shape == x.shape and x_adv.min() >= 0 and x_adv.max() <= 1
        assert threat.violation(x, x_adv, z).max() <= TOLERANCE
        if severity > 1 and not torch.equal(x_adv, x):
            milder = CORRUPTIONS[name](Quantity(severity - 1))
            assert torch.allclose(milder.violation(x, x_adv, z).amax(), torch.tensor(1.0))
        alone = torch.cat([threat.render(x[n : n + 1], z[n : n + 1]) for n in range(3)])
        assert torch.allclose(alone, x_adv, rtol=0, atol=1e-6)
    assert torch.equal(threat.render(x, torch.zeros(3, 2)), x)


@pytest.mark.parametrize("change", [(0.5, 0), (0, 0.5 / SEEDS), (1, 0), (-9, 0), (0, 2)])
def test_parameters_that_are_no_severity_or_no_seed_are_violations(change: tuple[float, float]) -> None:
    threat = CORRUPTIONS["gaussian_noise"](Quantity(4))
    z = threat.parameters(torch.arange(2) + 7) + torch.tensor(change)
    honest = threat.render(X, z)
    violation = threat.violation(X, torch.where(honest == X, 0.5, honest), z)
    assert (violation > 0.9).all()


def test_tampering_is_a_violation() -> None:
    threat: Corruption = CORRUPTIONS["shot_noise"](Quantity(2))
    z = threat.parameters(torch.arange(2))
    honest = threat.render(X, z)
    honest[:, 0, 0, 0] = 0.123
    assert torch.isinf(threat.violation(X, honest, z)).all()
    assert torch.isinf(threat.violation(X, threat.render(X, z), threat.parameters(torch.arange(2) + 1))).all()


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_variance_of_its_formula(severity: int) -> None:
    x = grey(0.5)
    for name, expected in (
        ("gaussian_noise", (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1] ** 2),
        ("speckle_noise", ((0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1] * 0.5) ** 2),
        ("shot_noise", 0.5 / (500, 250, 100, 75, 50)[severity - 1]),
    ):
        noise = corrupted(name, severity, x) - x
        assert noise.var().item() == pytest.approx(expected, rel=0.04)
        assert abs(noise.mean().item()) < 4 * (expected / noise.numel()) ** 0.5
    assert corrupted("speckle_noise", 5, grey(0.0)).eq(0).all() and corrupted("shot_noise", 5, grey(0.0)).eq(0).all()


def test_shot_noise_counts_photons_as_poisson_does() -> None:
    counts = (50 * corrupted("shot_noise", 5, grey(0.06))).round()
    assert torch.allclose(50 * corrupted("shot_noise", 5, grey(0.06)), counts, atol=1e-4)
    shares = [float((counts == k).float().mean()) for k in range(4)]
    assert shares == pytest.approx([np.exp(-3), 3 * np.exp(-3), 4.5 * np.exp(-3), 4.5 * np.exp(-3)], abs=0.01)


def test_impulses_are_salt_and_pepper_in_the_share_of_the_formula() -> None:
    struck = corrupted("impulse_noise", 5, grey(0.5)) - 0.5
    assert (struck != 0).float().mean().item() == pytest.approx(0.07, abs=0.006)
    assert (struck > 0).float().mean().item() == pytest.approx(0.035, abs=0.005)


def test_contrast_keeps_means_and_scales_deviations() -> None:
    pale = corrupted("contrast", 3, X)
    assert torch.allclose(pale.mean((2, 3)), X.mean((2, 3)), atol=1e-6)
    assert torch.allclose(pale.std((2, 3)), 0.4 * X.std((2, 3)), atol=1e-6)


def test_brightness_and_saturation_change_as_colorsys_changes_them() -> None:
    small = X[:1, :, :6, :6]
    brighter, stronger = corrupted("brightness", 4, small), corrupted("saturate", 4, small)
    for row in range(6):
        for column in range(6):
            hue, saturation, value = colorsys.rgb_to_hsv(*small[0, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))
            assert brighter[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)
            expected = colorsys.hsv_to_rgb(hue, min(1, 2 * saturation + 0.1), value)
            assert stronger[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(corrupted("brightness", 4, grey(0.0)), grey(0.2))


def test_a_gaussian_blur_is_scipys() -> None:
    for severity, sigma in enumerate((0.4, 0.6, 0.7, 0.8, 1.0), 1):
        theirs = gaussian_filter(X.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
        assert np.allclose(corrupted("gaussian_blur", severity, X).numpy(), theirs, atol=1e-6)


def test_out_of_focus_at_the_worst_is_the_mean_of_nine_pixels() -> None:
    theirs = uniform_filter(X.double().numpy(), (0, 0, 3, 3), mode="mirror")
    assert np.allclose(corrupted("defocus_blur", 5, X).numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur"])
def test_blurs_leave_what_is_flat_and_flatten_the_rest(name: str) -> None:
    assert torch.allclose(corrupted(name, 5, grey(0.3)), grey(0.3), atol=1e-6)
    roughness = [corrupted(name, severity, X).std() for severity in range(1, 6)]
    assert all(after <= before + 1e-6 for before, after in pairwise(roughness))
    assert roughness[-1] < 0.7 * X.std()


def test_motion_draws_a_point_out_to_one_side() -> None:
    x = torch.zeros(5, 1, 32, 32)
    x[:, 0, 16, 20] = 1
    drawn = corrupted("motion_blur", 3, x)[:, 0]
    assert torch.allclose(drawn.sum((1, 2)), torch.ones(5), atol=0.02)
    assert drawn[:, :, 21:].sum() < 1e-4 and (drawn[:, :, 18].sum(1) > 0.05).all()


def test_pixelation_is_pillows() -> None:
    for side, severity in ((32, 1), (32, 4), (28, 3), (8, 5)):
        x, c = X[:1, :, :side, :side], (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
        image = Image.fromarray((255 * x[0].permute(1, 2, 0)).round().byte().numpy())
        small = image.resize((int(side * c), int(side * c)), Image.Resampling.BOX)
        theirs = torch.from_numpy(np.array(small.resize((side, side), Image.Resampling.BOX))).permute(2, 0, 1) / 255
        assert (corrupted("pixelate", severity, x)[0] - theirs).abs().max() <= 1.01 / 255


@pytest.mark.parametrize(("channels", "side"), [(1, 32), (1, 28), (3, 32), (3, 20)])
def test_jpeg_is_nearly_pillows(channels: int, side: int) -> None:
    x = SMOOTH[:1, :channels, :side, :side]
    for severity, quality in ((1, 80), (5, 40)):
        pixels = (255 * x[0]).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
        theirs = torch.from_numpy(np.array(Image.open(file))).float().view(side, side, channels).permute(2, 0, 1) / 255
        difference = (corrupted("jpeg_compression", severity, x)[0] - theirs).abs()
        lost = (x[0] - theirs).abs().mean()
        assert difference.mean() < 0.15 * lost, f"{difference.mean() * 255:.3f} of {lost * 255:.3f} levels"


def test_fog_hides_the_image_by_its_thickness() -> None:
    x = 0.5 * X
    for severity, thickness in ((1, 0.2), (5, 1.5)):
        hazy, brightest = corrupted("fog", severity, x), x.flatten(1).amax(1).view(-1, 1, 1, 1)
        fog = hazy.double() * (brightest + thickness) / brightest - x
        assert fog.min() > -1e-6 and fog.max() < thickness + 1e-6
        assert torch.allclose(fog[:, 0], fog[:, 1], atol=1e-5), "it has no colour"


def test_glass_is_a_gaussian_blur_of_pixels_that_a_naive_loop_takes_from_their_neighbours() -> None:
    x, seeds = X.double(), torch.arange(len(X))
    for sigma, times in ((0.05, 1), (0.4, 2)):
        expected = np.floor(gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest") * 255 + 1e-4) / 255
        for number in range(times):
            drawn = (uniform(fold(seeds, number), (2, 32, 32), torch.float64) < 0.5).numpy()
            for n in range(len(x)):
                for row in range(31, 1, -1):
                    for column in range(31, 1, -1):
                        up, left = drawn[n, :, row, column]
                        expected[n, :, row, column] = expected[n, :, row - up, column - left]
        expected = gaussian_filter(expected, (0, 0, sigma, sigma), mode="nearest")
        found = GlassBlur(Quantity(1)).corrupt(x, (sigma, times), seeds)
        assert np.allclose(found.numpy(), expected, atol=1e-9)


def test_an_affine_map_takes_points_where_they_should_go_and_is_scipys() -> None:
    x, here = X[:1].double(), torch.tensor([[26.0, 26], [26, 6], [6, 6]]).double()
    there = (here + torch.tensor([[1.5, -2], [0.3, 1], [-1, 2.2]]))[None].double()
    matrix = np.linalg.solve(np.c_[there[0].numpy(), np.ones(3)], here.numpy())  # (x, y, 1) @ matrix
    linear, offset = matrix[:2].T[::-1, ::-1], matrix[2][::-1]
    found = mapped(x, here, there)[0]
    for channel in range(3):
        theirs = affine_transform(x[0, channel].numpy(), linear, offset, order=1, mode="mirror")
        assert np.allclose(found[channel].numpy(), theirs, atol=1e-9)
    assert torch.allclose(mapped(x, here, here[None]), x, atol=1e-12)


def test_a_field_moves_pixels_as_scipy_does() -> None:
    x, field = X[:1].double(), 6 * (uniform(torch.arange(1), (2, 32, 32)).double() - 0.5)
    rows, columns = np.mgrid[:32, :32]
    theirs = map_coordinates(
        x[0, 0].numpy(), [rows + field[0, 1].numpy(), columns + field[0, 0].numpy()], order=1, mode="reflect"
    )
    assert np.allclose(displaced(x, field)[0, 0].numpy(), theirs, atol=1e-9)
    theirs = gaussian_filter(field.numpy(), (0, 0, 6.4, 6.4), mode="reflect", truncate=3)
    assert np.allclose(smooth(field, 6.4).numpy(), theirs, atol=1e-9)


def test_an_elastic_transform_keeps_what_is_flat_and_moves_a_point_by_no_more_than_its_constants() -> None:
    assert torch.allclose(corrupted("elastic_transform", 5, grey(0.3)), grey(0.3), atol=1e-6)
    x = torch.zeros(20, 1, 32, 32)
    x[:, 0, 15:18, 15:18] = 1
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    moved = corrupted("elastic_transform", 1, x)[:, 0]
    for places in (rows, columns):
        centre = (moved * places).sum((1, 2)) / moved.sum((1, 2))
        assert (centre - 16).abs().max() <= 2.56 + 0.5  # (16, 16) is an affine mean of the three points
        assert (centre - 16).abs().max() > 0.5


def test_mud_covers_and_water_lightens_as_the_formula_says() -> None:
    x, seeds = torch.cat([X, X]).double(), torch.arange(4)
    noise = normal(seeds, (1, 32, 32), torch.float64).numpy()
    for severity, (mean, deviation, sigma, least, last) in (
        (2, (0.65, 0.1, 0.8, 0.7, 0.5)),
        (5, (0.65, 0.1, 0.5, 0.68, 0.6)),
    ):
        liquid = gaussian_filter(mean + deviation * noise, (0, 0, sigma, sigma), mode="nearest")
        wet = liquid >= least
        found = Spatter(Quantity(severity)).corrupt(x, Spatter.levels[severity - 1], seeds).numpy()
        for n in range(4):
            if severity == 2:
                light = 0.5 * np.where(wet[n, 0], liquid[n, 0], 0) / (liquid[n, 0] * wet[n, 0]).max()
                expected = x[n].numpy() + light * (np.array([175, 238, 238]) / 255)[:, None, None]
            else:
                mud = gaussian_filter(wet[n, 0].astype(float), last, mode="nearest")
                mud[mud < 0.8] = 0
                expected = x[n].numpy() * (1 - mud) + mud * (np.array([63, 42, 20]) / 255)[:, None, None]
            assert np.allclose(found[n], expected, atol=1e-9)
        assert 0.02 < wet.mean() < 0.5
    dry = Spatter(Quantity(1)).corrupt(x[:, :1], (0.1, 0.001, 0.7, 0.7, 0.5, False), seeds)
    assert torch.equal(dry, x[:, :1])
