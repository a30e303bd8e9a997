"""The small classifier."""

from __future__ import annotations

import pytest
import torch

from defenses.networks.cnn import CNN


@pytest.mark.parametrize(("channels", "image_size", "num_classes"), [(1, 8, 10), (3, 32, 7)])
def test_it_maps_images_to_logits(channels: int, image_size: int, num_classes: int) -> None:
    network = CNN(channels, image_size, width=4, num_classes=num_classes)
    assert network(torch.rand(3, channels, image_size, image_size)).shape == (3, num_classes)


def test_in_evaluation_an_image_does_not_depend_on_its_batch() -> None:
    network, x = CNN(dropout=0.5).eval(), torch.rand(6, 1, 8, 8)
    assert torch.allclose(network(x)[2:3], network(x[2:3]), atol=1e-6)
