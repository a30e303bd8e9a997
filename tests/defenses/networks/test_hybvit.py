"""HybViT against the original: listing, logits, noise estimates and schedule in both precisions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defenses.networks.hybvit import HybViT
from defenses.networks.layers import sinusoids
from harness.errors import UserError
from helpers.originals import assert_agrees, assert_listing, assert_twice_differentiable, fill, golden

SHAPE = (2, 3, 16, 16)
TINY = {"img_size": 16, "dim": 48, "depth": 2, "heads": 12, "dim_head": 4}


@pytest.fixture(scope="module")
def numbers():
    return golden("hybvit")


@pytest.fixture
def network(numbers, dtype):
    return fill(HybViT(**TINY), exempt=numbers["exceptions"]).to(dtype)


@pytest.fixture
def x(network, image):
    return network.preprocessing(image(SHAPE)).requires_grad_()


@pytest.fixture
def digits(numbers):
    network = HybViT(img_size=8, patch_size=2, dim=16, depth=2, heads=2, dim_head=8, in_channels=1)
    x = torch.sin(torch.arange(192, dtype=torch.float64)).reshape(3, 1, 8, 8)
    return fill(network, exempt=numbers["exceptions"]).double(), x


def test_state_dicts_have_the_published_names_and_shapes(numbers):
    assert_listing(HybViT(**TINY), numbers["state_dict"], numbers["tiny_params"])
    with torch.device("meta"):
        assert_listing(HybViT(), numbers["state_dict_full"], numbers["full_params"])


def test_logits_and_gradient_equal_the_original(network, x, numbers):
    logits = network(x)
    assert_agrees(logits, numbers, "logits_t_None (test-time classifier)")
    assert_agrees(network(x, torch.tensor([0, 999])), numbers, "logits_t_[0,999]_ffnt1")
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([3, 7])), x)
    assert_agrees(gradient, numbers, "grad_ce_mean_labels_[3,7]_wrt_x_raw")


def test_noise_estimates_equal_the_original(network, x, numbers):
    assert_agrees(network.noise_estimate(x, torch.tensor([0, 999])), numbers, "recon_t_[0,999]_ffnt1")
    assert_agrees(network.noise_estimate(x, torch.tensor([500, 500])), numbers, "recon_t_500_ffnt1")
    assert_agrees(network.noise_estimate(x, None), numbers, "recon_t_None(feat=False)")


def test_noise_estimates_without_modulated_feed_forward_equal_the_original(numbers, image, dtype):
    network = fill(HybViT(**TINY, ffn_time=False), exempt=numbers["exceptions"]).to(dtype)
    x = network.preprocessing(image(SHAPE))
    assert_agrees(network.noise_estimate(x, torch.tensor([500, 500])), numbers, "recon_t_500_ffnt0")


def test_the_schedule_and_the_diffusion_loss_equal_the_original(network, x, numbers, noise):
    timesteps = torch.tensor([0, 500, 999], dtype=x.dtype)
    assert_agrees(sinusoids(timesteps, 48), numbers, "sinusoid_dim48_t_[0,500,999]")
    assert_agrees(network.sqrt_alphas_cumprod[[0, 500, 999]], numbers, "sqrt_alphas_cumprod[[0,500,999]]")
    t, eps = torch.tensor([100, 700]), noise(SHAPE, 0)
    loss = (network.noise_estimate(network.add_noise(x, t, eps), t) - eps).abs().mean()
    assert_agrees(loss, numbers, "p_losses_l1_t_[100,700]_noise_k0")


def test_the_stored_posterior_is_bayes_rule(digits):
    stored = {name: buffer[1:] for name, buffer in digits[0].named_buffers()}
    kept, alpha = stored["alphas_cumprod_prev"], 1 - stored["betas"]
    variance = 1 / (alpha / stored["betas"] + 1 / (1 - kept))
    expected = {
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.log(),
        "posterior_mean_coef1": variance * kept.sqrt() / (1 - kept),
        "posterior_mean_coef2": variance * alpha.sqrt() / stored["betas"],
        "sqrt_recip_alphas_cumprod": stored["alphas_cumprod"] ** -0.5,
        "sqrt_recipm1_alphas_cumprod": ((1 - stored["alphas_cumprod"]) / stored["alphas_cumprod"]).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - stored["alphas_cumprod"]).log(),
    }
    for name, values in expected.items():
        torch.testing.assert_close(stored[name], values, rtol=2e-3, atol=1e-6)


def test_digits_fit_and_the_noise_estimate_puts_patches_back_in_place(digits):
    network, x = digits
    assert network(x).shape == (3, 10)
    # With a head that undoes the embedding, and nothing in between, the patches must come back as they went.
    vit = network.denoise_fn
    embed, head = vit.to_patch_embedding[1], vit.recon_head[0]
    vit.transformer.layers, vit.transformer.time_layers = torch.nn.ModuleList(), torch.nn.ModuleList()
    for tensor in (embed.bias, head.bias, vit.pos_embedding):
        torch.nn.init.zeros_(tensor)
    torch.nn.init.eye_(embed.weight)
    torch.nn.init.eye_(head.weight)
    torch.testing.assert_close(network.noise_estimate(x, None), x)


def test_classifier_and_noise_estimate_are_twice_differentiable(digits):
    network, x = digits
    t = torch.tensor([0, 500, 999])
    assert_twice_differentiable(lambda x: network(x).logsumexp(1).sum(), x)
    assert_twice_differentiable(lambda x: network.noise_estimate(x, t).pow(2).sum(), x)


def test_patches_that_do_not_tile_the_image_are_refused():
    with pytest.raises(UserError, match="do not tile"):
        HybViT(img_size=10, patch_size=4)
