"""The noised diffusion classifiers and denoised smoothing on packaged networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.certificates.smoothing import Smoothing
from defenses.denoised_smoothing import DenoisedSmoothing
from defenses.noised_dc import NoisedDC
from defenses.undefended import Undefended
from harness import datasets
from harness.certification.smoothed import SmoothedDefense, smoothing_noise
from harness.checks.forward import composition, smoothing
from harness.checks.probe import Probe
from harness.errors import UserError
from harness.predict import query
from harness.quantity import Quantity
from harness.weights import Checkpoint
from helpers.linear import target_of

SIGMA = Quantity("0.25")
DEFENSES: dict[str, dict[str, Any]] = {
    "EPNDC": {"posterior": "exact", "timesteps": 4},
    "APNDC": {"posterior": "approximate", "timesteps": 4},
    "denoised": {"posterior": "denoised", "timesteps": 4},
    "APNDC on EDM": {"weights": "digits-edm", "weighting": "edm", "timesteps": 4},
    "multi-head": {"weights": "digits-multihead", "timesteps": 4},
}


def digits(count: int) -> tuple[Tensor, Tensor]:
    data = datasets.load("digits")
    return data.images[:count], data.labels[:count]


def built(name: str) -> SmoothedDefense:
    if name == "denoised smoothing":
        return DenoisedSmoothing(Checkpoint.find("digits-ncsnpp"), Undefended(Checkpoint.find("digits-cnn")), SIGMA)
    arguments = dict(DEFENSES[name])
    return NoisedDC(Checkpoint.find(arguments.pop("weights", "digits-ncsnpp")), SIGMA, **arguments)


@pytest.fixture(scope="module", params=[*DEFENSES, "denoised smoothing"])
def defense(request: pytest.FixtureRequest) -> SmoothedDefense:
    return built(request.param).eval().requires_grad_(False)


def test_most_images_are_classified_right_behind_the_noise(defense: SmoothedDefense) -> None:
    x, y = digits(16)
    with torch.no_grad():
        right = query(defense, x, torch.arange(16)).argmax(1) == y
    assert right.sum() >= 11


def test_what_is_certified_is_what_the_defense_answers(defense: SmoothedDefense) -> None:
    probe = Probe(defense, digits(2)[0])
    assert smoothing(probe).status == composition(probe).status == "passed"


def test_its_gradient_is_that_of_finite_differences(defense: SmoothedDefense) -> None:
    x, seeds = digits(1)[0].double(), torch.arange(1)
    defense = defense.double()
    noisy = x + float(SIGMA) * smoothing_noise(seeds, x)
    direction = smoothing_noise(seeds + 9, x)

    def margin(z: Tensor) -> Tensor:
        logits = query(defense, z, seeds, defense.from_noisy)
        return logits[:, 0] - logits[:, 1]

    z = noisy.clone().requires_grad_()
    (grad,) = torch.autograd.grad(margin(z).sum(), z)
    with torch.no_grad():
        slope = (margin(noisy + 1e-5 * direction) - margin(noisy - 1e-5 * direction)) / 2e-5
    defense.float()
    assert torch.allclose((grad * direction).flatten(1).sum(1), slope, rtol=1e-3, atol=1e-6)


def test_a_certificate_counts_the_classes_that_apndc_gives_under_noise() -> None:
    defense, certificate = built("multi-head"), Smoothing(4, 24)
    x, y = digits(2)
    counts = certificate.counts(target_of(certificate, defense, x), x)
    assert counts.shape == (2, 2, 10) and (counts.sum(2) == torch.tensor([4, 24])).all()
    assert (counts[torch.arange(2), 1, y] > 18).all()


def test_more_noise_than_the_diffusion_reaches_is_refused() -> None:
    with pytest.raises(UserError, match="sigma"):
        NoisedDC(Checkpoint.find("digits-ncsnpp"), Quantity("100"))


def test_an_approximate_posterior_needs_a_network_that_does_without_the_class() -> None:
    network = {**Checkpoint.find("digits-edm").card.network, "knows_no_class": False}  # type: ignore[union-attr]
    with pytest.raises(UserError, match="never trained without a class"):
        NoisedDC(Checkpoint.find("digits-edm"), SIGMA, network=network)
    NoisedDC(Checkpoint.find("digits-edm"), SIGMA, network=network, posterior="exact", timesteps=2)
