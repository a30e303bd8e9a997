"""DiffPure's Wide ResNet against the original: listing, logits and gradient in both precisions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.networks.pat_resnet import PATResNet
from defenses.networks.wrn_dropout import WRNDropout
from helpers.originals import assert_agrees, assert_listing, fill, golden

SHAPE = (2, 3, 32, 32)


@pytest.fixture(scope="module")
def numbers():
    return golden("wrn70_dropout")


def test_state_dicts_have_the_published_names_and_shapes(numbers):
    assert_listing(WRNDropout(depth=10, width=2), numbers["state_dict"], numbers["tiny_params"])
    with torch.device("meta"):
        assert_listing(WRNDropout(), numbers["state_dict_full"], numbers["full_params"])


def test_logits_and_gradient_equal_the_original(numbers, image, dtype):
    network = fill(WRNDropout(depth=10, width=2)).to(dtype)
    x = image(SHAPE).requires_grad_()
    logits = network(network.preprocessing(x))
    assert_agrees(logits, numbers, "wrn_dropout_d10_w2_logits")
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([3, 7])), x)
    assert_agrees(gradient, numbers, "grad_ce_mean_labels_[3,7]_wrt_x01")


@pytest.mark.slow
def test_diffpures_resnet_is_pats_with_another_normalisation(numbers, image, dtype):
    network = fill(PATResNet(blocks=(1, 1, 1, 1))).to(dtype)
    logits = network(WRNDropout.preprocessing(image(SHAPE)))
    assert_agrees(logits, numbers, "resnet_bottleneck_[1,1,1,1]_logits")


def test_dropout_acts_in_training_mode_only():
    network = WRNDropout(depth=10, width=1, dropout=0.5, in_channels=1).eval()
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network(x), network(x), rtol=0, atol=0)
    for module in network.modules():
        module.train(isinstance(module, nn.Dropout))
    assert not torch.equal(network(x), network(x))


def test_digits_fit():
    network = WRNDropout(depth=16, width=1, num_classes=10, in_channels=1)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
