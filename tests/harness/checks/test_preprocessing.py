"""Cards are doubted as a binomial law says, and inputs beyond what one normalisation gives are pointed out."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from harness.checks.finding import Finding
from harness.checks.preprocessing import DOUBT, _tail, accuracy, first_layer
from harness.checks.probe import Probe
from harness.defense import Defense

COUNT = 200
X = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = (X.flatten(1)[:, 0] > 0.5).long()


class Oracle(Defense):
    """Right but for the images in the first `wrong` rows, told by their content."""

    expected_dataset = "digits"

    def __init__(self, expected: float, wrong: int) -> None:
        super().__init__()
        self.expected_accuracy = expected
        self.register_buffer("missed", X[:wrong].flatten(1)[:, 0])

    def classify(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, :1]
        answer = (pixel > 0.5) ^ torch.isin(pixel, self.missed)
        return torch.cat([~answer, answer], 1).float()


class Blurring(Oracle):
    def purify(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def judged(defense: Defense, dataset: str | None = "digits") -> Finding:
    return accuracy(Probe(defense, X, Y, dataset=dataset))


def test_the_tail_is_that_of_the_binomial_law() -> None:
    for k, n, p in ((3, 8, 0.99), (180, 200, 0.95), (100, 256, 0.4), (0, 5, 0.5)):
        assert _tail(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-9)


@pytest.mark.parametrize("expected", [0.5, 0.9, 0.994, 1.0])
def test_a_card_is_doubted_from_the_quantile_of_the_binomial_law_on(expected: float) -> None:
    allowed = next(k for k in range(COUNT) if binom.cdf(k, COUNT, min(expected, 0.999)) >= DOUBT)
    assert judged(Oracle(expected, wrong=COUNT - allowed)).status == "passed"
    finding = judged(Oracle(expected, wrong=COUNT - allowed + 1))
    assert finding.status == "failed" and "where its card says" in finding.message


def test_what_a_purifier_costs_is_no_fault_of_the_card() -> None:
    assert judged(Blurring(0.99, wrong=0)).status == "passed"
    finding = judged(Blurring(0.99, wrong=30))
    assert finding.status == "failed" and "85.0% of 200 clean images, without purify" in finding.message


@pytest.mark.parametrize("dataset", ["cifar10", None])
def test_a_card_says_nothing_of_another_dataset(dataset: str | None) -> None:
    assert judged(Oracle(0.99, wrong=60), dataset).status == "passed"
    assert judged(Oracle(0.99, wrong=120), dataset).status == "warned"


class Scaled(Defense):
    def __init__(self, layer: nn.Module, scale: float, offset: float) -> None:
        super().__init__()
        self.layer, self.scale, self.offset = layer, scale, offset

    def classify(self, x: Tensor) -> Tensor:
        return self.layer(self.scale * x + self.offset).flatten(1)[:, :2]


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(16, 2))])
@pytest.mark.parametrize(
    ("scale", "offset", "status"),
    [
        (1, 0, "passed"),
        (1 / 0.229, -0.485 / 0.229, "passed"),
        (1 / 0.229**2, -0.485 / 0.229**2 - 0.485 / 0.229, "warned"),
        (255, 0, "warned"),
    ],
)
def test_images_normalised_twice_or_in_bytes_are_pointed_out(layer, scale, offset, status) -> None:
    assert first_layer(Probe(Scaled(layer, scale, offset), X)).status == status


def test_a_network_without_a_layer_for_images_is_not_asked() -> None:
    assert first_layer(Probe(Oracle(0.9, wrong=0), X)).status == "skipped"
