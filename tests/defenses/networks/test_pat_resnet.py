"""PAT's ResNet-50 against the original: listing, logits and gradient in both precisions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defenses.networks.pat_resnet import PATResNet
from helpers.originals import assert_agrees, assert_listing, fill, golden

SHAPE = (2, 3, 32, 32)


@pytest.fixture(scope="module")
def numbers():
    return golden("pat_resnet50")


def test_state_dicts_have_the_published_names_and_shapes(numbers):
    with torch.device("meta"):
        assert_listing(PATResNet(blocks=(1, 1, 1, 1)), numbers["state_dict"], numbers["tiny_params"])
        assert_listing(PATResNet(), numbers["state_dict_full"], numbers["full_params"])


@pytest.mark.slow
def test_logits_and_gradient_equal_the_original(numbers, image, dtype):
    network = fill(PATResNet(blocks=(1, 1, 1, 1))).to(dtype)
    x = image(SHAPE).requires_grad_()
    logits = network(network.preprocessing(x))
    assert_agrees(logits, numbers, "tiny_bottleneck_[1,1,1,1]_logits (normalised input)")
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([3, 7])), x)
    assert_agrees(gradient, numbers, "grad_ce_mean_labels_[3,7]_wrt_x01")


def test_preprocessing_has_the_published_constants(numbers):
    preprocessing = PATResNet(blocks=(1, 1, 1, 1), width=4).preprocessing
    assert list(preprocessing.mean) == numbers["inputs"]["mean"]
    assert list(preprocessing.std) == numbers["inputs"]["std"]


def test_digits_fit():
    network = PATResNet(blocks=(1, 2, 1, 1), width=4, num_classes=10, in_channels=1, mean=[0.5], std=[0.5])
    assert network(network.preprocessing(torch.rand(2, 1, 8, 8))).shape == (2, 10)
