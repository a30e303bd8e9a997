"""EDM networks against the originals: listings, outputs in both precisions, and what a class label means."""

from __future__ import annotations

import re

import pytest
import torch

from defenses.networks.edm import DDPMPP, EDM, NCSNPP
from harness.errors import UserError
from helpers.originals import assert_agrees, assert_listing, assert_twice_differentiable, fill, golden

CASES = {"a_cond_vp": DDPMPP, "b_uncond_vp": DDPMPP, "c_cond_ve": NCSNPP}
SHAPE = (2, 3, 16, 16)
FREQUENCIES = "model.map_noise.freqs"
GRADIENT = "a_cond_vp/grad_x_of_sum(D*noise_k5)_sigma_0.5_y_[0,3]"


@pytest.fixture(scope="module")
def numbers():
    return golden("edm_songunet")


@pytest.fixture
def tiny(numbers, dtype):
    """Builds a tiny network at rule-made weights, by the name of its case."""

    def build(case):
        network = EDM.from_published(numbers["config"][case]["tiny"])
        fill(network, exempt=(*numbers["exceptions"][case], FREQUENCIES))
        if case == "c_cond_ve":
            index = torch.arange(16, dtype=torch.float64)
            network.state_dict()[FREQUENCIES].copy_(2 * torch.sin(0.37 * index + 0.1))
        return network.to(dtype)

    return build


@pytest.fixture
def digits():
    generator = torch.Generator().manual_seed(0)
    network = EDM(8, 1, 10, model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,)).eval()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return network.double(), torch.rand((3, 1, 8, 8), generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_tiny_state_dict_has_the_published_names_and_shapes(case, numbers):
    network = EDM.from_published(numbers["config"][case]["tiny"])
    assert_listing(network, numbers["state_dict"][case], numbers["tiny_params"][case])


@pytest.mark.parametrize("case", CASES)
def test_the_defaults_are_the_published_full_size_networks(case, numbers):
    with torch.device("meta"):
        network = EDM(**CASES[case], label_dim=0 if case == "b_uncond_vp" else 10)
    conditional = numbers["state_dict_full"]["c_cond_ve" if case == "c_cond_ve" else "a_cond_vp"]
    listing = [row for row in conditional if case != "b_uncond_vp" or "map_label" not in row[0]]
    assert_listing(network, listing, numbers["full_params"][case])


def test_the_default_flavour_is_ddpmpp():
    with torch.device("meta"):
        assert EDM().state_dict().keys() == EDM(**DDPMPP).state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_denoised_images_equal_the_originals(case, numbers, tiny, image, noise, dtype):
    network, x = tiny(case), 2 * image(SHAPE) - 1
    with torch.no_grad():
        for name in numbers["outputs"]:
            match = re.fullmatch(rf"{case}/D_sigma_([\d.]+)_y_(\[0,3\]|None)", name)
            if match:
                sigma = torch.tensor(float(match[1]), dtype=dtype)
                y = torch.tensor([0, 3]) if match[2] == "[0,3]" else None
                assert_agrees(network(x + sigma * noise(SHAPE, 0), sigma, y), numbers, name)


def test_the_unet_the_augmentation_and_the_gradient_equal_the_originals(numbers, tiny, image, noise, dtype):
    network, x, sigma, y = tiny("a_cond_vp"), 2 * image(SHAPE) - 1, torch.tensor(0.5, dtype=dtype), torch.tensor([0, 3])
    noisy = (x + sigma * noise(SHAPE, 0)).requires_grad_()
    one_hot = torch.eye(10, dtype=dtype)[y]
    raw = network.model(noisy / (sigma**2 + 0.25).sqrt(), (sigma.log() / 4).expand(2), one_hot)
    assert_agrees(raw, numbers, "a_cond_vp/F_sigma_0.5_y_[0,3] (raw SongUNet on c_in*x_noisy, c_noise)")
    augmentation = (0.3 * torch.sin(torch.arange(18, dtype=torch.float64))).reshape(2, 9).float().to(dtype)
    augmented = network(noisy, sigma, y, augmentation)
    assert_agrees(augmented, numbers, "a_cond_vp/D_sigma_0.5_y_[0,3]_augment_labels_0.3sin(i)")
    assert_agrees(network(x, sigma, y), numbers, "a_cond_vp/D_sigma_0.5_y_[0,3]_x_clean(no_noise_added)")
    (gradient,) = torch.autograd.grad((network(noisy, sigma, y) * noise(SHAPE, 5)).sum(), noisy)
    assert_agrees(gradient, numbers, GRADIENT)


def test_minus_one_means_no_label_for_that_image_only(digits):
    network, x = digits
    sigma = torch.tensor([0.1, 1.0, 10.0])
    mixed = network(x, sigma, torch.tensor([4, -1, 9]))
    torch.testing.assert_close(mixed[1], network(x, sigma)[1])
    torch.testing.assert_close(mixed[[0, 2]], network(x, sigma, torch.tensor([4, 0, 9]))[[0, 2]])
    assert not torch.allclose(mixed[0], network(x, sigma)[0])


def test_each_image_has_its_own_noise_level(digits):
    network, x = digits
    together = network(x, torch.tensor([0.1, 1.0, 10.0]))
    for i, sigma in enumerate((0.1, 1.0, 10.0)):
        torch.testing.assert_close(together[i : i + 1], network(x[i : i + 1], torch.tensor(sigma)))


@pytest.mark.parametrize("label", [10, -2])
def test_a_class_out_of_range_is_refused(digits, label):
    network, x = digits
    with pytest.raises(RuntimeError, match="Class values"):
        network(x, torch.tensor(1.0), torch.tensor([0, 1, label]))


def test_an_unconditional_network_refuses_classes():
    network = EDM(8, 1, 0, model_channels=8, channel_mult=(1, 1), num_blocks=1)
    with pytest.raises(ValueError, match="no classes"):
        network(torch.zeros(1, 1, 8, 8), torch.tensor(1.0), torch.tensor([0]))


def test_the_denoiser_is_twice_differentiable(digits):
    network, x = digits
    sigma, y = torch.tensor([0.1, 1.0, 10.0]), torch.tensor([4, -1, 9])
    assert_twice_differentiable(lambda x: network(x, sigma, y).pow(2).sum(), x)


@pytest.mark.parametrize("flavour", [DDPMPP, NCSNPP], ids=["ddpm++", "ncsn++"])
def test_a_fresh_network_almost_only_scales_the_noisy_image(flavour):
    network = EDM(8, 1, 10, model_channels=8, channel_mult=(1, 2), num_blocks=1, **flavour)
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    torch.testing.assert_close(network(x, torch.tensor(0.5)), x / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [{"embedding_type": "fourrier"}, {"encoder_type": "skip"}, {"img_resolution": 10}, {"model_channels": 6}],
)
def test_an_impossible_architecture_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        EDM(**wrong)


@pytest.mark.parametrize("wrong", [{"model_type": "DhariwalUNet"}, {"decoder_type": "skip"}])
def test_a_published_network_of_another_kind_is_refused(wrong, numbers):
    with pytest.raises(UserError, match=next(iter(wrong))):
        EDM.from_published(numbers["config"]["a_cond_vp"]["tiny"] | wrong)
