"""JEM's Wide ResNet against the original: listing, logits, energies and one refinement step in both precisions."""

from __future__ import annotations

import pytest
import torch

from defenses.networks.jem_wrn import JEMWRN
from harness.errors import UserError
from helpers.originals import assert_agrees, assert_listing, assert_twice_differentiable, fill, golden

SHAPE = (2, 3, 32, 32)


@pytest.fixture(scope="module")
def numbers():
    return golden("jem_wrn")


@pytest.fixture
def network(dtype):
    return fill(JEMWRN(depth=10, width=2)).to(dtype)


@pytest.fixture
def x(network, image):
    return network.preprocessing(image(SHAPE)).requires_grad_()


def test_state_dicts_have_the_published_names_and_shapes(numbers):
    assert_listing(JEMWRN(depth=10, width=2), numbers["state_dict"], numbers["tiny_params"])
    with torch.device("meta"):
        assert_listing(JEMWRN(), numbers["state_dict_full"], numbers["full_params"])


def test_logits_and_features_equal_the_original(network, x, numbers, noise):
    logits = network(x)
    assert_agrees(logits, numbers, "classify_logits")
    assert_agrees(logits[[0, 1], [0, 3]], numbers, "forward_y_[0,3]")
    assert_agrees(network.features(x), numbers, "penult")
    assert_agrees(network.energy_output(network.features(x)), numbers, "F.forward_energy_output")
    assert_agrees(network(x + 0.03 * noise(SHAPE, 0)), numbers, "classify_logits_x_plus_0.03_noise_k0")


def test_the_energy_its_gradient_and_a_refinement_step_equal_the_original(network, x, numbers, noise):
    def ascent(x):
        return torch.autograd.grad(network(x).logsumexp(1).sum(), x)[0]

    assert_agrees(network(x).logsumexp(1), numbers, "logsumexp_forward")
    assert_agrees(ascent(x), numbers, "grad_logsumexp_wrt_x_raw")
    start = x + 0.03 * noise(SHAPE, 1)
    assert_agrees(network(start + ascent(start) + 0.01 * noise(SHAPE, 2)), numbers, "refine_1step_logits")


def test_the_energy_is_twice_differentiable():
    network = fill(JEMWRN(depth=10, width=1, in_channels=1)).double()
    x = torch.sin(torch.arange(128, dtype=torch.float64)).reshape(2, 1, 8, 8)
    assert_twice_differentiable(lambda x: network(x).logsumexp(1).sum(), x)


def test_digits_fit():
    network = JEMWRN(depth=10, width=1, num_classes=10, in_channels=1)
    assert network(network.preprocessing(torch.rand(2, 1, 8, 8))).shape == (2, 10)


@pytest.mark.parametrize("depth", [4, 27])
def test_a_depth_that_no_wide_resnet_has_is_refused(depth):
    with pytest.raises(UserError, match=str(depth)):
        JEMWRN(depth=depth)
