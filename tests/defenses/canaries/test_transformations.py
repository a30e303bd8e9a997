"""What the canaries do to images, against loops, another codec and finite differences."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from defenses.canaries.bit_depth import BitDepth
from defenses.canaries.input_dropout import InputDropout
from defenses.canaries.iterated_rounding import IteratedRounding
from defenses.canaries.jpeg import JPEG
from defenses.canaries.resize_and_pad import ResizeAndPad
from defenses.canaries.reversed_draws import ReversedDraws
from defenses.canaries.scaled_logits import ScaledLogits
from defenses.canaries.shattered import Shattered
from defenses.canaries.shattered_detail import ShatteredDetail
from defenses.canaries.thermometer import Thermometer
from defenses.networks.thermometer_cnn import codes
from defenses.undefended import Undefended
from harness import datasets
from harness.checks import check_defense
from harness.defense import Defense
from harness.errors import UserError
from harness.gradients import bpda, exact
from harness.quantity import Quantity
from harness.threats.frequencies import low_pass

CANARIES = {
    "jpeg": lambda classifier: JPEG(classifier),
    "bit_depth": lambda classifier: BitDepth(classifier),
    "thermometer": lambda classifier: Thermometer("digits-thermometer"),
    "resize_and_pad": lambda classifier: ResizeAndPad(classifier, smallest=6),
    "input_dropout": lambda classifier: InputDropout(classifier, Quantity("0.1")),
    "scaled_logits": lambda classifier: ScaledLogits(classifier),
    "shattered": lambda classifier: Shattered(classifier),
    "reversed_draws": lambda classifier: ReversedDraws(classifier),
    "iterated_rounding": lambda classifier: IteratedRounding(classifier),
    "shattered_detail": lambda classifier: ShatteredDetail(classifier),
}
SEEDS = torch.arange(1, 9)


@pytest.fixture(scope="module")
def classifier() -> Undefended:
    return Undefended("digits-cnn").eval()


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits", "test").select(range(64))


@pytest.fixture
def x(digits) -> Tensor:
    return digits.images[:8]


def gradient(view, defense: Defense, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with defense.drawing(SEEDS):
        return torch.autograd.grad(view(defense, x)[:, 3].sum(), x)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CANARIES)
def test_canaries_keep_the_contract_but_for_what_they_were_built_to_break(name, classifier, digits) -> None:
    defense = CANARIES[name](classifier).eval()
    failed = [v.name for v in check_defense(defense, digits.images[:8]) if v.status == "failed"]
    assert failed == (["unsaturated logits"] if name == "scaled_logits" else [])


@pytest.mark.parametrize("name", CANARIES)
def test_canaries_know_clean_digits(name, classifier, digits) -> None:
    defense = CANARIES[name](classifier).eval()
    with torch.no_grad(), defense.drawing(torch.arange(64)):
        accuracy = (defense(digits.images).argmax(1) == digits.labels).float().mean()
    assert accuracy >= (0.75 if defense.stochastic else 0.95)


@pytest.mark.parametrize("quality", [10, 75, 100])
def test_jpeg_stores_what_pillow_stores(quality: int, classifier, x: Tensor) -> None:
    stored = []
    for image in (255 * x[:, 0]).round().byte().numpy():
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=quality)
        stored.append(np.asarray(Image.open(file)))
    found = JPEG(classifier, quality).purify(x)
    assert (255 * found[:, 0] - torch.from_numpy(np.stack(stored))).abs().max() <= 1.001


def test_jpeg_keeps_colours_apart(classifier) -> None:
    image = torch.tensor([0.8, 0.2, 0.4]).view(1, 3, 1, 1).expand(2, 3, 16, 24)
    assert (JPEG(classifier).purify(image) - image).abs().max() <= 0.02


def test_jpeg_has_no_exact_gradient_to_be_robust_with(classifier, x: Tensor) -> None:
    defense = JPEG(classifier).eval()
    with pytest.raises(RuntimeError):
        gradient(exact, defense, x)
    assert (gradient(bpda, defense, x) != 0).any()


def test_bit_depth_leaves_so_many_grey_levels_and_no_gradient(classifier) -> None:
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    defense = BitDepth(classifier, 2)
    assert defense.purify(ramp).unique().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert (defense.purify(ramp) - ramp).abs().max() <= 1 / 6 + 1e-6
    assert not gradient(exact, defense, ramp.repeat(8, 1, 1, 1)).any()


def test_codes_are_as_many_ones_as_the_pixel_has_levels_then_zeros() -> None:
    image = torch.randint(0, 17, (2, 3, 4, 4)) / 16
    found = codes(image, 16)
    for n, c, i, j in np.ndindex(2, 3, 4, 4):
        ones = round(16 * image[n, c, i, j].item())
        assert found[n, 16 * c : 16 * (c + 1), i, j].tolist() == [1.0] * ones + [0.0] * (16 - ones)


def test_a_thermometer_shows_its_network_codes_alone(digits) -> None:
    defense, between = Thermometer("digits-thermometer"), (digits.images + 0.02).clamp(0, 1)
    code = codes(defense.purify(between), 16)
    assert ((code == 0) | (code == 1)).all()
    assert torch.equal(defense.purify(between), digits.images)
    assert not gradient(exact, defense, between[:8]).any() and gradient(bpda, defense, between[:8]).any()


def test_a_network_without_thermometers_is_told() -> None:
    with pytest.raises(UserError, match="no thermometer encoding"):
        Thermometer("digits-cnn")


def test_resize_and_pad_is_the_nearest_neighbour_of_a_loop(classifier, x: Tensor) -> None:
    defense, sizes = ResizeAndPad(classifier, smallest=5), set()
    with defense.drawing(SEEDS):
        found, (size, corner) = defense.purify(x), defense._draw(x)
    for n, (s, (a, b)) in enumerate(zip(size.tolist(), corner.tolist(), strict=True)):
        expected = torch.zeros(8, 8)
        for i, j in np.ndindex(s, s):
            expected[a + i, b + j] = x[n, 0, i * 8 // s, j * 8 // s]
        assert torch.equal(found[n, 0], expected)
        sizes.add(s)
    assert len(sizes) > 1


def test_resizing_draws_every_size_and_place(classifier) -> None:
    defense, images = ResizeAndPad(classifier, smallest=7), torch.ones(400, 1, 8, 8)
    with defense.drawing(torch.arange(400)):
        size, corner = defense._draw(images)
    drawn = {(s, a, b) for s, (a, b) in zip(size.tolist(), corner.tolist(), strict=True)}
    assert drawn == {(8, 0, 0), (7, 0, 0), (7, 0, 1), (7, 1, 0), (7, 1, 1)}
    assert (size == 8).float().mean() == pytest.approx(0.5, abs=0.1)


def test_an_image_that_cannot_be_scaled_down_is_told(classifier) -> None:
    defense = ResizeAndPad(classifier, smallest=6)
    for shape in ((1, 1, 4, 4), (1, 1, 8, 6)):
        with pytest.raises(UserError, match="cannot be scaled down to 6"), defense.drawing(torch.ones(1).long()):
            defense.purify(torch.zeros(shape))


def test_dropout_drops_whole_pixels_at_its_rate(classifier) -> None:
    defense, images = InputDropout(classifier, Quantity("0.3")), torch.full((50, 3, 8, 8), 0.5)
    with defense.drawing(torch.arange(50)):
        found = defense.purify(images)
    assert set(found.unique().tolist()) == {0.0, 0.5}
    assert (found == 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(found[:, 0], found[:, 2]) and not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", ["resize_and_pad", "input_dropout"])
def test_bpda_differentiates_the_draw_that_it_sees(name, classifier, x: Tensor) -> None:
    defense = CANARIES[name](classifier).eval()
    assert torch.equal(gradient(bpda, defense, x), gradient(exact, defense, x))


def test_scaled_logits_change_no_prediction(classifier, x: Tensor) -> None:
    assert torch.allclose(ScaledLogits(classifier)(x), 1e6 * classifier(x))


def test_reversed_draws_have_the_classes_of_the_network_and_some_the_opposite_gradient(classifier, x: Tensor) -> None:
    defense, images = ReversedDraws(classifier).eval(), x[:1].expand(400, 1, 8, 8).clone().requires_grad_()
    with defense.drawing(torch.arange(400)):
        logits = defense(images)
    (found,) = torch.autograd.grad(logits[:, 3].sum(), images)
    plain = gradient(exact, classifier, x)[:1]
    factor = (found * plain).flatten(1).sum(1) / plain.square().sum()
    assert torch.allclose(found, factor.view(-1, 1, 1, 1) * plain, atol=1e-3 * plain.abs().max())
    odd = factor < 0
    assert torch.allclose(factor[odd], torch.tensor(-19.0), rtol=1e-3) and torch.allclose(factor[~odd], torch.ones(1))
    assert odd.float().mean() == pytest.approx(0.25, abs=0.07)
    assert (logits.argmax(1) == classifier(x[:1]).argmax(1)).all()


def test_iterated_rounding_rounds_and_its_gradient_vanishes(classifier, x: Tensor) -> None:
    defense = IteratedRounding(classifier).eval()
    values = torch.linspace(0.003, 0.997, 64).view(1, 1, 8, 8)
    assert torch.allclose(defense.purify(values), (7 * values).round() / 7, atol=1e-5)
    far = gradient(exact, defense, values.expand(8, 1, 8, 8))
    near = gradient(exact, defense.coarser(1), values.expand(8, 1, 8, 8))
    assert far.abs().max() < 1e-12 and (near.abs() > 1e-3).float().mean() > 0.8
    rate = 2 * torch.pi * 7
    behind = gradient(exact, classifier, values - (rate * values).sin() / rate)
    assert torch.allclose(near[:1], behind[:1] * (1 - (rate * values).cos()), atol=1e-4)


def test_shattered_detail_leaves_the_low_frequencies_of_the_gradient_alone(classifier, x: Tensor) -> None:
    defense = ShatteredDetail(classifier, lowest=4).double().eval()
    images = (0.9 * x + 0.05).double().requires_grad_()
    weights = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (found,) = torch.autograd.grad((weights * defense.purify(images)).sum(), images)
    expected = (1 - 2 * defense.amplitude) * weights
    low, high = low_pass(found - expected, 4), found - expected
    assert low.abs().max() < 1e-6 and high.abs().mean() > 10 * weights.abs().mean()


def test_a_shattered_gradient_is_correct_and_its_sign_a_coin_toss(classifier) -> None:
    defense = Shattered(classifier).double()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((8, 1, 8, 8), generator=generator, dtype=torch.float64).requires_grad_()
    moved = defense.purify(image)
    (slope,) = torch.autograd.grad(moved.sum(), image)
    h = 1e-7
    with torch.no_grad():
        measured = (defense.purify(image + h) - defense.purify(image - h)) / (2 * h)
    torch.testing.assert_close(slope, measured, rtol=1e-3, atol=0.1)
    assert (slope < 0).double().mean() == pytest.approx(0.5, abs=0.07)
    assert (moved - image).abs().max() <= 0.04 and moved.min() >= 0 and moved.max() <= 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda c: JPEG(c, 0), "quality is 0"),
        (lambda c: BitDepth(c, 9), "bits is 9"),
        (lambda c: ResizeAndPad(c, 0), "smallest is 0"),
        (lambda c: InputDropout(c, Quantity("1")), "rate is 1"),
        (lambda c: ScaledLogits(c, Quantity("0")), "factor is 0"),
        (lambda c: Shattered(c, Quantity("0.5")), "amplitude is 0.5"),
        (lambda c: Shattered(c, frequency=Quantity("-1")), "frequency is -1"),
        (lambda c: ShatteredDetail(c, 0), "lowest is 0"),
        (lambda c: IteratedRounding(c, steps=0), "steps is 0"),
        (lambda c: ReversedDraws(c, Quantity("0.5")), "share is 0.5"),
        (lambda c: ReversedDraws(c, reversal=Quantity(1)), "reversal is 1"),
    ],
)
def test_numbers_out_of_range_are_told(make, told: str, classifier) -> None:
    with pytest.raises(UserError, match=told):
        make(classifier)
