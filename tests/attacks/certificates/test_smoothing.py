"""Certificates of classifiers whose exact smoothing radius is known, and what their draws depend on."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from attacks.certificates.smoothing import Smoothing
from defenses.smoothed import Smoothed
from harness.attack import Adversarial
from harness.certification.smoothed import SmoothedDefense
from harness.certification.smoothing import ABSTAINS, certify
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from helpers.linear import Linear, NoisyLinear, target_of

IMAGES = 200
SIGMA = 0.5


def linear(dimension: int = 4) -> tuple[Linear, Tensor, Tensor]:
    """Two classes: images, (N, 1, 2, 2) in [0, 1], and their distances to the boundary in the direction of class 1."""
    w = normal(torch.tensor([3]), (dimension,), torch.float64)[0].float()
    x = uniform(torch.arange(IMAGES), (1, 2, 2))
    bias = -float((x.flatten(1) @ w).mean())
    defense = Linear(torch.stack([torch.zeros(dimension), w]), torch.tensor([0.0, bias]))
    return defense, x, (x.flatten(1) @ w + bias) / w.norm()


def certified(certificate: Smoothing, defense: SmoothedDefense, x: Tensor) -> tuple[Tensor, Tensor]:
    """Classes and radii, (N,)."""
    target = target_of(certificate, defense, x)
    target.batch_size = 10_000
    counts = certificate.counts(target, x)
    found = certify(counts.numpy(), certificate.n, sigma=float(defense.sigma), alpha=certificate.alpha)
    return torch.from_numpy(found.classes), torch.from_numpy(found.radii)


def test_a_linear_classifiers_radius_exceeds_the_distance_to_its_boundary_as_rarely_as_alpha_says() -> None:
    """Its exact radius is margin / ||w||. With a fixed seed, 200 images and alpha = 0.05: about 10, and never 25."""
    base, x, distance = linear()
    classes, radii = certified(Smoothing(20, 500, alpha=0.05), Smoothed(base, Quantity(SIGMA)), x)
    known = classes != ABSTAINS
    right = classes == (distance > 0).long()
    too_large = known & ((radii > distance.abs()) | ~right)
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], IMAGES, 0.05)
    assert low <= too_large.sum() <= high


def test_a_linear_classifiers_radius_approaches_the_distance_as_the_draws_grow() -> None:
    base, x, distance = linear()
    far = distance.abs().topk(20).indices
    gaps = []
    for n in (100, 1000, 10_000):
        classes, radii = certified(Smoothing(50, n, alpha=0.001), Smoothed(base, Quantity(SIGMA)), x[far])
        assert (classes == (distance[far] > 0).long()).all()
        gaps.append(float((distance[far].abs() - radii).mean()))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0
    assert gaps[2] < 0.06 * SIGMA


def test_it_abstains_near_the_boundary_and_nowhere_far_from_it() -> None:
    base, x, distance = linear()
    classes, _ = certified(Smoothing(50, 500), Smoothed(base, Quantity(SIGMA)), x)
    # p_low > 1/2 needs about 3 standard errors, 3 / (2 sqrt(500)) = 0.067, which is a distance of 0.17 sigma
    near, far = distance.abs() < 0.05 * SIGMA, distance.abs() > 0.4 * SIGMA
    assert near.any() and far.any()
    assert (classes[near] == ABSTAINS).float().mean() > 0.95
    assert (classes[far] == ABSTAINS).sum() == 0


def test_the_counts_of_an_image_do_not_depend_on_the_batch_or_on_other_images() -> None:
    base, x, _ = linear()
    defense, certificate = Smoothed(base, Quantity(SIGMA)), Smoothing(5, 40)
    seeds = torch.arange(IMAGES)
    whole = certificate.counts(target_of(certificate, defense, x, seeds), x)
    few = target_of(certificate, defense, x[3:8], seeds[3:8])
    few.batch_size = 7
    assert torch.equal(certificate.counts(few, x[3:8]), whole[3:8])
    other = certificate.counts(target_of(certificate, defense, x, seeds + 1), x)
    assert not torch.equal(other, whole)


def test_the_two_counts_are_of_different_draws() -> None:
    base, x, distance = linear()
    near = distance.abs().argsort()[:50]
    counts = Smoothing(100, 100).counts(target_of(Smoothing(), Smoothed(base, Quantity(SIGMA)), x[near]), x[near])
    assert not torch.equal(counts[:, 0], counts[:, 1])


def test_a_base_classifier_with_noise_of_its_own_is_certified_for_both_noises_together() -> None:
    """z1 - z0 = w x + sqrt(2) tau e: behind noise sigma ||w||, p = Phi(margin / sqrt(sigma^2 ||w||^2 + 2 tau^2))."""
    base, x, distance = linear()
    w, tau = float(base.weights[1].detach().norm()), 0.3
    noisy = NoisyLinear(base.weights.detach(), base.bias, noise=tau)
    counts = Smoothing(1, 4000).counts(target_of(Smoothing(), Smoothed(noisy, Quantity(SIGMA)), x[:10]), x[:10])
    wanted = stats.norm.cdf((distance[:10] * w).numpy() / (SIGMA**2 * w**2 + 2 * tau**2) ** 0.5)
    assert abs(counts[:, 1, 1].numpy() / 4000 - wanted).max() < 4 * 0.5 / 4000**0.5


def test_draws_without_finite_logits_count_for_no_class() -> None:
    class Broken(Linear):
        def classify(self, x: Tensor) -> Tensor:
            logits = super().classify(x)
            return torch.where(x.flatten(1)[:, :1] > 0.5, torch.nan, logits)

    base, x, _ = linear()
    counts = Smoothing(10, 100).counts(
        target_of(Smoothing(), Smoothed(Broken(base.weights.detach(), base.bias), Quantity(SIGMA)), x), x
    )
    assert (counts[:, 1].sum(1) < 100).all() and (counts[:, 1].sum(1) > 0).any()


def test_it_leaves_images_alone_and_counts_its_passes() -> None:
    base, x, _ = linear()
    certificate = Smoothing(5, 40)
    target = target_of(certificate, Smoothed(base, Quantity(SIGMA)), x)
    found = Adversarial.of(certificate.perturb(target, x, torch.zeros(IMAGES, dtype=torch.int64)))
    assert torch.equal(found.images, x)
    assert target.forwards.tolist() == [45] * IMAGES == [int(certificate.cost(2).forwards)] * IMAGES
    assert found.counts is not None and found.radii is not None
    assert found.radii.shape == (IMAGES,)


def test_a_defense_that_is_not_smoothed_is_refused_with_the_way_to_smooth_it() -> None:
    base, _, _ = linear()
    assert "{type: smoothed" in str(Smoothing().unsuitable(base))
    assert Smoothing().unsuitable(Smoothed(base, Quantity(SIGMA))) is None


@pytest.mark.parametrize("arguments", [{"n0": 0}, {"n": 0}, {"n": 20_000_000}, {"alpha": 0.0}, {"alpha": 0.5}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Smoothing(**arguments)  # type: ignore[arg-type]
