"""Ten faults, each a line's change to a sound defense around the packaged classifier, and what `harness check` says."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from defenses.undefended import Undefended
from harness import datasets
from harness.checks import Finding, check_defense
from harness.weights import Checkpoint

MEAN, STD = 0.3053, 0.3764
"""Of the digits' pixels."""


def trained_on_normalised_images() -> nn.Module:
    """The network of digits-cnn as if it had been trained on (x - MEAN) / STD, by folding that into its first layer."""
    network = Checkpoint.find("digits-cnn").network()
    first = network.features[0]
    with torch.no_grad():
        first.bias += MEAN * first.weight.sum((1, 2, 3))
        first.weight *= STD
    first.padding = (0, 0)
    network.features.insert(0, nn.ConstantPad2d(1, -MEAN / STD))
    return network


class Sound(Undefended):
    """The classifier behind a purifier that lowers contrast a little."""

    def __init__(self) -> None:
        super().__init__("digits-cnn")
        self.network = trained_on_normalised_images()
        self.register_buffer("mean", torch.tensor([MEAN]).view(1, 1, 1))
        self.register_buffer("std", torch.tensor([STD]).view(1, 1, 1))

    def purify(self, x: Tensor) -> Tensor:
        return 0.05 + 0.9 * x

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def classify(self, x: Tensor) -> Tensor:
        return self.network(self.normalise(x))


class WrongShape(Sound):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).argmax(1)


class Softmaxed(Sound):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).softmax(1)


class OutsideTheRange(Sound):
    def purify(self, x: Tensor) -> Tensor:
        return 1.1 * x


class HiddenRandomness(Sound):
    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.01 * torch.randn_like(x)).clamp(0, 1)


class BatchDependent(Sound):
    def purify(self, x: Tensor) -> Tensor:
        return x / x.max()


class InPlace(Sound):
    def purify(self, x: Tensor) -> Tensor:
        return x.mul_(0.9)


class Detached(Sound):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x.detach())


class WrongDevice(Sound):
    """Right on the CPU, which is why it is found on the first GPU: `.to()` does not move what is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        del self.mean
        self.mean = torch.tensor([MEAN]).view(1, 1, 1)


class Promoted(Sound):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * torch.ones(10, dtype=torch.float64, device=x.device)


class NormalisedTwice(Sound):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(self.normalise(x))


FAULTS = {
    WrongShape: ("logits' shape", r"\(8,\) for 8 images, one class index for each"),
    Softmaxed: ("logits, not probabilities", "a softmax hides gradients; return what goes into it"),
    OutsideTheRange: ("purified images", r"purify returns pixels from 0 to 1\.1, outside \[0, 1\]; clamp them"),
    HiddenRandomness: ("honest `stochastic`", "stochastic = False, but two calls differ by up to"),
    BatchDependent: ("batch independence", "logits change by up to .* with the others in its batch"),
    InPlace: ("images left alone", "forward changes the images it is given in place, .*; work on a copy"),
    Detached: ("gradient of classify", "the logits are detached from the images"),
    WrongDevice: ("moves with .to(device)", r"`mean`, of shape \(1, 1, 1\), stays on cpu .*: use self.register_buffer"),
    Promoted: ("dtype", "torch.float32 images give torch.float64 logits: a cast or a constant of that type got in"),
    NormalisedTwice: ("accuracy", r"where its card says 99\.4%: is normalisation applied twice"),
}


CONSEQUENCES = {
    InPlace: ("gradient of purify", "gradient of forward", "finite differences of purify"),
    Detached: ("gradient of forward", "gradient under bpda"),
}
"""Rules that cannot hold either where a fault is."""


@cache
def findings(defense: type[Sound]) -> dict[str, Finding]:
    test = datasets.load("digits").select(range(256))
    built = defense().eval().requires_grad_(False)
    return {finding.name: finding for finding in check_defense(built, test.images, test.labels, dataset="digits")}


def test_there_are_ten() -> None:
    assert len(FAULTS) == 10


def test_the_sound_defense_passes_every_rule() -> None:
    assert {v.name: v.message for v in findings(Sound).values() if v.status != "passed"} == {}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_fails_its_own_rule_with_a_message_that_names_it(fault: type[Sound]) -> None:
    name, message = FAULTS[fault]
    finding = findings(fault)[name]
    assert finding.status == "failed"
    assert re.search(message, finding.message), finding.message


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_rules_that_a_fault_does_not_touch_pass(fault: type[Sound]) -> None:
    failed = {name for name, finding in findings(fault).items() if finding.status == "failed"}
    assert failed <= {FAULTS[fault][0], *CONSEQUENCES.get(fault, ())}


def test_a_network_fed_twice_normalised_images_is_told_without_a_card() -> None:
    finding = findings(NormalisedTwice)["images as the network sees them"]
    assert finding.status == "warned"
    assert "the most after one normalisation: is normalisation applied twice" in finding.message
