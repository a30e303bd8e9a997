"""EDM training: the published loss against its definition, and a denoiser whose optimum is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NO_CLASS, EDMDenoiser
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.networks import edm
from defenses.networks.flow_vit import FlowViT
from defenses.training.edm import EDM
from harness import datasets
from harness.errors import UserError
from harness.randomness import fenced
from harness.weights import Checkpoint


class Spy(nn.Module):
    """Answers with a fixed function of its input, and remembers what it was asked."""

    predicts = "edm"
    num_classes, sigma_data = 10, 0.6

    def __init__(self, knows_no_class: bool = True) -> None:
        super().__init__()
        self.knows_no_class = knows_no_class
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        self.asked.append((x, sigma, y))
        return self.gain * x + 0.01 * y.view(-1, 1, 1, 1)


def test_the_loss_is_the_weighted_error_of_denoised_images() -> None:
    network, x, y = Spy(knows_no_class=False), torch.rand(5, 1, 8, 8), torch.arange(5)
    loss = EDM(label_dropout=0).loss(network, x, y)
    [(noisy, sigmas, seen)] = network.asked
    assert torch.equal(seen, y)
    total = 0.0
    for i in range(5):
        sigma, clean = sigmas[i].item(), 2 * x[i] - 1
        assert ((noisy[i] - clean) / sigma).std().item() == pytest.approx(1, abs=0.35)
        weight = (sigma**2 + 0.6**2) / (sigma * 0.6) ** 2
        total += weight * (0.5 * noisy[i] + 0.01 * i - clean).square().mean().item() / 5
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_noise_levels_are_lognormal() -> None:
    network = Spy()
    with torch.no_grad():
        EDM(p_mean=-0.7, p_std=0.9).loss(network, torch.zeros(50_000, 1, 1, 1), torch.zeros(50_000, dtype=torch.int64))
    logarithms = network.asked[0][1].log()
    assert logarithms.mean().item() == pytest.approx(-0.7, abs=0.02)
    assert logarithms.std().item() == pytest.approx(0.9, abs=0.02)
    assert (logarithms < -0.7 - 0.9).float().mean().item() == pytest.approx(0.1587, abs=0.01)


def test_the_class_is_withheld_from_the_stated_share_of_images() -> None:
    network, y = Spy(), torch.full((20_000,), 3)
    with torch.no_grad():
        EDM(label_dropout=0.2).loss(network, torch.zeros(20_000, 1, 2, 2), y)
    seen = network.asked[0][2]
    assert set(seen.tolist()) == {3, -1}
    assert (seen == -1).float().mean().item() == pytest.approx(0.2, abs=0.01)


class Posterior(nn.Module):
    """The best denoiser of Gaussian images, N(0, s^2) per pixel, with the constant c_skip multiplied by `error`."""

    predicts, num_classes, knows_no_class = "edm", 10, True

    def __init__(self, sigma_data: float, error: float = 1.0) -> None:
        super().__init__()
        self.sigma_data, self.error = sigma_data, error

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        skip = self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        return self.error * skip.view(-1, 1, 1, 1) * x


def test_gaussian_images_lose_exactly_one_under_the_best_denoiser_and_more_under_others() -> None:
    """E ||E[x | x_t] - x||^2 = sigma^2 s^2 / (sigma^2 + s^2), the inverse of the weight: every level contributes 1."""
    s, y = 0.5, torch.zeros(4000, dtype=torch.int64)
    x = (s * torch.randn(4000, 1, 8, 8) + 1) / 2
    losses = [EDM().loss(Posterior(s, error), x, y).item() for error in (1.0, 0.9, 1.1)]
    assert losses[0] == pytest.approx(1, abs=0.02)
    assert min(losses[1:]) > 1.05


def small(**options: object) -> edm.EDM:
    """An untrained network of the digits' shape. Its U-Net answers with almost 0, so that D = c_skip x."""
    layout = dict(img_resolution=8, img_channels=1, augment_dim=0, model_channels=8, channel_mult=(1,), num_blocks=1)
    return edm.EDM(**{**layout, "attn_resolutions": (), "knows_no_class": True, **options})


def test_an_untrained_network_loses_one_on_gaussian_images() -> None:
    x = (0.5 * torch.randn(500, 1, 8, 8) + 1) / 2
    with torch.no_grad():
        loss = EDM().loss(small(), x, torch.zeros(500, dtype=torch.int64))
    assert loss.item() == pytest.approx(1, abs=0.05)


class Oracle(nn.Module):
    """Knows the clean image of each class."""

    predicts, num_classes, knows_no_class, sigma_data = "edm", 3, True, 0.5

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(2 * images - 1)

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        return self.images[y]


def test_the_clean_accuracy_is_that_of_a_diffusion_classifier() -> None:
    """The oracle's error is |x - image_y|^2 / level^2, whatever the noise, at the levels of ten VP timesteps."""
    images = torch.rand(3, 1, 4, 4)
    logits = EDM(timesteps=10).logits(Oracle(images), images, 3)
    alphas = [math.prod(1 - (0.1 + 19.9 * s / 999) / 1000 for s in range(100 * j)) for j in range(1, 11)]
    ratio = sum(alpha / (1 - alpha) for alpha in alphas) / 10
    distances = (2 * images[:, None] - 2 * images).square().flatten(2).mean(2)
    assert logits.detach() == pytest.approx(-ratio * distances, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_the_packaged_network_tells_digits_apart_and_knows_them_without_their_class() -> None:
    data = datasets.load("digits", "test").select(range(450, 500))
    x, y, trainer, network = data.images, data.labels, EDM(), Checkpoint.find("digits-edm").network()
    with torch.no_grad(), fenced(0):
        losses = -trainer.logits(network, x, 10)
        denoiser = EDMDenoiser(network, trainer.schedule)
        loss = DiffusionLoss(denoiser, trainer.grid, GaussianNoise("classes"))
        digits, noise = (loss(images, torch.tensor([NO_CLASS]), y).mean() for images in (x, torch.rand_like(x)))
    assert (losses.argmin(1) == y).float().mean() >= 0.94
    assert losses.gather(1, y[:, None]).mean() < digits < losses.mean() < noise


class Unscaled(nn.Module):
    """A denoiser without a sigma_data, whose answer is what it is given."""

    predicts, num_classes, knows_no_class = "edm", 10, True

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        return x


def test_a_denoiser_without_a_sigma_data_is_weighed_by_the_trainers() -> None:
    """An error of sigma, weighed by the definition, costs (sigma / s)^2 + 1; sigma is exp(p_mean) here."""
    x, y = torch.rand(4000, 1, 4, 4), torch.zeros(4000, dtype=torch.int64)
    loss = EDM(p_mean=0.5, p_std=1e-6, sigma_data=0.6).loss(Unscaled(), x, y).item()
    assert loss == pytest.approx(math.exp(1) / 0.36 + 1, rel=0.02)


def test_a_vision_transformer_of_flow_matching_can_be_trained() -> None:
    network = FlowViT(image_size=8, patch_size=4, dim=8, depth=1, heads=2, hidden=16)
    loss = EDM(sigma_data=0.6).loss(network, torch.rand(3, 1, 8, 8), torch.arange(3))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("own", "given", "said"), [(None, None, "does not say"), (0.5, 0.6, "of its own, 0.5")])
def test_sigma_data_is_said_once(own: float | None, given: float | None, said: str) -> None:
    network = Unscaled()
    network.sigma_data = own
    with pytest.raises(UserError, match=said):
        EDM(sigma_data=given).loss(network, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))


def test_the_card_names_the_timesteps_that_classified() -> None:
    assert EDM(timesteps=[200, 500]).measured.startswith("diffusion classifier, timesteps [200, 500], noise")
    assert EDM(timesteps=4).measured.startswith("diffusion classifier, 4 uniform timesteps, noise")


@pytest.mark.parametrize(("label_dropout", "claims"), [(0.1, False), (0.0, True)])
def test_a_network_that_claims_another_training_than_it_gets_is_refused(label_dropout: float, claims: bool) -> None:
    with pytest.raises(UserError, match="knows_no_class"):
        EDM(label_dropout).loss(small(knows_no_class=claims), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))


@pytest.mark.parametrize("network", [nn.Conv2d(1, 1, 1), small(label_dim=0)], ids=["no denoiser", "unconditional"])
def test_a_network_of_another_kind_is_refused(network: nn.Module) -> None:
    with pytest.raises(UserError, match="class-conditional denoisers"):
        EDM().logits(network, torch.rand(2, 1, 8, 8), 10)


@pytest.mark.parametrize("options", [{"label_dropout": 1.0}, {"p_std": 0.0}, {"sigma_data": -0.5}])
def test_a_number_that_means_nothing_is_told(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        EDM(**options)
