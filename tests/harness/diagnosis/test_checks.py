"""Honest classifiers pass every check; each way to mask a gradient is seen by the checks that are about it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from harness.checks import Finding
from harness.defense import Defense
from harness.diagnosis import CHECKS, Subject
from harness.diagnosis.gradient_checks import cosine_by_eot, doublings, interval, noise_ratio, pairwise_cosine
from harness.quantity import Quantity
from helpers.diagnosed import Drawn, Honest, Quantised, Saturated, Shattered, Smooth, subject

pytestmark = pytest.mark.slow


def findings(subject: Subject) -> dict[str, Finding]:
    return {check.name: check(subject) for check in CHECKS}


def warned(subject: Subject) -> set[str]:
    found = findings(subject)
    assert not [finding for finding in found.values() if finding.status == "failed"]
    return {name for name, finding in found.items() if finding.status == "warned"}


@pytest.mark.parametrize("cls", [Honest, Smooth])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.2), ("L2", 1.5), ("L1", 15.0)])
def test_an_honest_classifier_passes_every_check(cls: type[Defense], norm: str, eps: float) -> None:
    honest = subject(cls(), surrogate=Honest(), norm=norm, eps=Quantity(eps))
    found = findings(honest)
    others = {key: f"{f.status}: {f.message}" for key, f in found.items() if f.status not in ("passed", "skipped")}
    assert not others
    assert [key for key, f in found.items() if f.status == "skipped"] == ["compression", "more draws"]


def test_rounded_images_have_no_gradient() -> None:
    found = warned(subject(Quantised(), surrogate=Honest(), queries=400))
    assert {"gradient present", "gradient randomness", "loss surface", "transfer", "black box"} <= found


def test_saturated_logits_blind_plain_cross_entropy_alone() -> None:
    assert warned(subject(Saturated(), surrogate=Honest())) == {"gradient present"}


def test_a_shattered_gradient_is_no_better_than_chance() -> None:
    found = warned(subject(Shattered(), surrogate=Honest()))
    assert {"loss surface", "transfer"} <= found
    assert "gradient present" not in found


def test_noise_that_is_not_admitted_is_seen() -> None:
    class Jittery(Drawn):
        stochastic = False

    assert "gradient randomness" in warned(subject(Jittery(1.0)))


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_cosines_are_those_of_the_closed_form(spread: float) -> None:
    """In 64 dimensions, ratios of sums are near ratios of expectations; 24 images x 45 pairs average the rest."""
    noisy = Drawn(spread)
    cosines, undefined = cosine_by_eot(subject(noisy), [1, 2, 8])
    assert undefined == 0
    for k, found in cosines.items():
        assert float(found.mean()) == pytest.approx(1 / (1 + noisy.noise_ratio / k), abs=0.03)


def test_the_interval_of_a_mean_cosine_holds_it_as_often_as_it_says() -> None:
    values = 0.5 + 0.1 * torch.randn(2000, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [interval(each) for each in values]
    assert sum(low <= 0.5 <= high for low, high in found) / len(found) == pytest.approx(0.945, abs=0.015)
    assert interval(torch.tensor([0.3])) == (-1.0, 1.0)
    assert interval(torch.tensor([1.0, 1.0])) == (1.0, 1.0)


def test_noise_is_warned_of_where_the_attack_averages_too_few_draws() -> None:
    randomness = next(check for check in CHECKS if check.name == "gradient randomness")
    noisy = Drawn(3.0)
    few, many = (randomness(subject(noisy, eot=eot)) for eot in (1, 64))
    assert (few.status, many.status) == ("warned", "passed")
    assert few.data["noise_ratio"] == pytest.approx(noisy.noise_ratio, rel=0.15)
    assert few.data["noise_ratio"] == many.data["noise_ratio"]


@pytest.mark.parametrize(("spread", "status"), [(0.5, "passed"), (50.0, "warned")])
def test_noise_hides_the_slope_only_where_it_drowns_the_gradient(spread: float, status: str) -> None:
    """At a spread of 0.5 the margin's own noise is larger than its rise at eps/8, but all points share it."""
    surface = next(check for check in CHECKS if check.name == "loss surface")
    assert surface(subject(Drawn(spread))).status == status


def test_pairwise_cosine_is_the_mean_over_pairs() -> None:
    grads = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    naive = torch.stack([torch.cosine_similarity(grads[i], grads[j], dim=1) for i, j in pairs]).mean(0)
    torch.testing.assert_close(pairwise_cosine(grads), naive)


def test_the_cosine_of_a_zero_gradient_is_not_a_number() -> None:
    grads = torch.ones(3, 2, 4)
    grads[1, 0] = 0
    assert pairwise_cosine(grads).isnan().tolist() == [True, False]


def test_the_noise_ratio_does_not_depend_on_eot() -> None:
    assert noise_ratio(1 / (1 + 6.0), 1) == pytest.approx(6)
    assert noise_ratio(1 / (1 + 6.0 / 8), 8) == pytest.approx(6)
    assert noise_ratio(-0.01, 1) is None


def test_doublings_end_at_the_largest() -> None:
    assert doublings(1) == [1]
    assert doublings(8) == [1, 2, 4, 8]
    assert doublings(10) == [1, 2, 4, 8, 10]


def test_a_defense_that_is_never_right_is_not_attacked() -> None:
    class Wrong(Honest):
        def classify(self, x: Tensor) -> Tensor:
            return -super().classify(x)

    found = findings(subject(Wrong()))
    assert found["black box"].status == found["one step against many"].status == "skipped"


def test_a_crash_is_an_error_and_no_pass() -> None:
    class Crash(Honest):
        def classify(self, x: Tensor) -> Tensor:
            raise RuntimeError("planted")

    assert {finding.status for finding in findings(subject(Crash())).values()} <= {"failed", "skipped"}


def test_findings_are_data() -> None:
    for finding in findings(subject(Drawn(0.5))).values():
        assert finding.source and finding.message
        json.dumps(finding.data, allow_nan=False)
