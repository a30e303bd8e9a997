"""How much purification shortens distances, on purifiers of which that is known."""

from __future__ import annotations

import math

import pytest
from torch import Tensor

from harness.checks.finding import Finding
from harness.diagnosis.compression import SHARES, compression
from harness.quantity import Quantity
from harness.randomness import normal
from helpers.diagnosed import Honest, subject


class Scaled(Honest):
    """Contrast times `by`."""

    by = 0.25

    def purify(self, x: Tensor) -> Tensor:
        return 0.5 + self.by * (x - 0.5)


class Same(Scaled):
    by = 1.0


class Wider(Scaled):
    by, stochastic = 2.0, True


class Noised(Honest):
    """Noise of its own in every call."""

    stochastic, sigma = True, 0.05

    def purify(self, x: Tensor) -> Tensor:
        return x + self.sigma * normal(self.seeds_for(x), x.shape[1:])


def found(defense: Honest, norm: str = "L2", eps: str = "0.5") -> Finding:
    return compression(subject(defense, norm=norm, eps=Quantity(eps)))


def means(finding: Finding, name: str) -> list[float]:
    return [mean for mean, *_ in finding.data["compression"][name]]


@pytest.mark.parametrize("cls", [Scaled, Same])
@pytest.mark.parametrize(("norm", "eps"), [("L2", "0.5"), ("Linf", "0.1"), ("L1", "5")])
def test_a_scaling_by_a_shortens_every_distance_to_a(cls: type[Scaled], norm: str, eps: str) -> None:
    finding = found(cls(), norm, eps)
    assert finding.status == "passed", finding.message
    for name in ("random", "gradient"):
        assert means(finding, name) == pytest.approx([cls.by] * len(SHARES), rel=1e-4)
    assert means(finding, "other_noise") == []


def test_noise_shortens_nothing_and_two_draws_of_it_add_what_they_differ_by() -> None:
    """|| d + sigma (n' - n) ||^2 has the mean || d ||^2 + 2 D sigma^2; in 64 dimensions its root is near that of it."""
    finding = found(Noised())
    assert means(finding, "random") == pytest.approx([1.0] * len(SHARES), rel=1e-4)
    expected = [math.sqrt(1 + 2 * 64 * Noised.sigma**2 / (share * 0.5) ** 2) for share in SHARES]
    assert means(finding, "other_noise") == pytest.approx(expected, rel=0.05)
    assert finding.status == "passed"


def test_a_random_purifier_that_moves_images_apart_is_warned_of() -> None:
    finding = found(Wider())
    assert finding.status == "warned" and "rests on its noise" in finding.message


def test_a_defense_without_purification_is_skipped() -> None:
    assert found(Honest()).status == "skipped"
