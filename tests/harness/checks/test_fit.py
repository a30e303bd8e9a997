"""A defense is judged on images that it was made for, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.checks import check_class
from harness.checks.fit import first_channels, refuse_unfit
from harness.defense import Defense
from harness.errors import UserError

GREY = torch.rand(4, 1, 8, 8)

FILE = """\
import torch
from torch import nn
from harness import Defense


class Colour(Defense):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def classify(self, x):
        return self.net(x - self.mean)


class Card(Colour):
    expected_dataset = "nowhere"
"""


class Colour(Defense):
    """A network for colour images of any size; three means make colour images of grey ones."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(channels, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x - torch.full((1, self.net[0].in_channels, 1, 1), 0.5))
        return logits


class Flat(Defense):
    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 10))

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class Broken(Defense):
    def classify(self, x: Tensor) -> Tensor:
        raise ValueError("a mistake of its own")


def test_a_network_for_colour_images_is_not_judged_on_grey_ones_that_nobody_chose() -> None:
    with pytest.raises(UserError, match="Colour is a network for images of 3 channels, and those of 'digits' have 1"):
        refuse_unfit(Colour().eval(), GREY, "digits", "Colour", chosen=False)


def test_grey_images_that_somebody_chose_are_allowed() -> None:
    refuse_unfit(Colour().eval(), GREY, "digits", "Colour", chosen=True)


def test_images_with_the_channels_of_the_network_are_allowed() -> None:
    refuse_unfit(Colour().eval(), torch.rand(4, 3, 32, 32), "cifar10", "Colour", chosen=False)
    refuse_unfit(Colour(1).eval(), GREY, "digits", "Colour", chosen=False)


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize(
    ("pixels", "shape", "such"), [(3072, "3x32x32", "such as those of 'cifar10'"), (784, "1x28x28", "'fashion_mnist'")]
)
def test_images_of_a_size_that_a_network_cannot_take_are_refused_with_the_size_it_takes(
    pixels: int, shape: str, such: str, chosen: bool
) -> None:
    with pytest.raises(UserError) as caught:
        refuse_unfit(Flat(pixels).eval(), GREY, "digits", "Flat", chosen=chosen)
    assert f"Flat takes images of {shape}" in str(caught.value) and such in str(caught.value)
    assert "those of 'digits' are 1x8x8. Name such images, with --dataset" in str(caught.value)


def test_a_defense_that_fails_on_every_image_is_left_to_its_checks() -> None:
    refuse_unfit(Broken(), GREY, "digits", "Broken", chosen=False)


def test_a_first_layer_that_is_for_neither_grey_nor_colour_images_says_nothing() -> None:
    assert first_channels(Colour(3).eval(), GREY) == 3
    assert first_channels(Flat(64).eval(), GREY) is None
    assert first_channels(Colour(12).eval(), GREY) is None


def test_a_class_is_checked_on_the_images_of_a_path_or_of_its_card_before_the_default(tmp_path: Path) -> None:
    (tmp_path / "colour.py").write_text(FILE)
    images = np.random.default_rng(0).random((12, 3, 16, 16), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(12) % 10)
    with pytest.raises(UserError, match="3 channels"):
        check_class("colour.py:Colour", tmp_path)
    found = {v.name: v for v in check_class("colour.py:Colour", tmp_path, path=tmp_path / "mine.npz")}
    assert "(3, 16, 16)" in found["runs"].message
    forced = {v.name: v for v in check_class("colour.py:Colour", tmp_path, dataset="digits")}
    assert forced["images as the network sees them"].status == "warned"
    assert "takes 3 channels, and the images have 1" in forced["images as the network sees them"].message
    with pytest.raises(UserError, match=r"its weights were measured on 'nowhere'.*--dataset NAME or --path"):
        check_class("colour.py:Card", tmp_path)
