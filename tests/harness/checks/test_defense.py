"""A good defense passes every rule; each planted fault is caught by the rule that is about it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.checks import check_defense, gates
from harness.defense import Defense
from helpers.sound import GloballyNoisy, Good, Noisy

X = torch.rand(6, 2, 5, 4, generator=torch.Generator().manual_seed(3))


def statuses(defense: Defense) -> dict[str, str]:
    return {finding.name: finding.status for finding in check_defense(defense, X)}


def fails(defense: Defense, name: str) -> bool:
    return statuses(defense)[name] == "failed"


def test_a_good_defense_passes_every_check_but_those_that_need_labels_or_layers() -> None:
    others = {name: status for name, status in statuses(Good()).items() if status != "passed"}
    assert others == {"accuracy": "skipped", "images as the network sees them": "skipped"}
    assert gates(Good(), X) == []


def test_a_good_stochastic_defense_passes_every_rule() -> None:
    found = statuses(Noisy())
    assert [name for name, status in found.items() if status not in ("passed", "skipped")] == []


def test_noise_from_the_global_generator_is_allowed_with_a_warning() -> None:
    found = statuses(GloballyNoisy())
    assert {name for name, status in found.items() if status not in ("passed", "skipped")} == {"batch independence"}
    assert found["batch independence"] == "warned"


def test_a_crash_is_a_finding_with_its_cause() -> None:
    class Crashing(Good):
        def classify(self, x: Tensor) -> Tensor:
            raise RuntimeError("no weights")

    (finding,) = check_defense(Crashing(), X)
    assert finding.status == "failed" and "no weights" in finding.message
    assert gates(Crashing(), X) == [f"runs: {finding.message}"]


def test_a_missing_classify_is_told() -> None:
    (finding,) = check_defense(Defense(), X)
    assert "must define classify" in finding.message


def test_wrong_shape_is_caught() -> None:
    class Flat(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x)[:, 0]

    assert fails(Flat(), "logits' shape")


def test_a_class_count_other_than_declared_is_caught() -> None:
    class FourClasses(Good):
        num_classes = 4

    assert fails(FourClasses(), "logits' shape")


def test_softmax_output_is_caught() -> None:
    class Softmaxed(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x).softmax(1)

    assert fails(Softmaxed(), "logits, not probabilities")
    assert any("softmax" in message for message in gates(Softmaxed(), X))


def test_log_probabilities_are_logits() -> None:
    class LogSoftmaxed(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x).log_softmax(1)

    assert set(statuses(LogSoftmaxed()).values()) == {"passed", "skipped"}


def test_purify_outside_the_unit_range_is_caught() -> None:
    class Overshooting(Good):
        def purify(self, x: Tensor) -> Tensor:
            return 1.2 * x

    assert fails(Overshooting(), "purified images")


def test_purify_that_changes_the_shape_is_caught() -> None:
    class Flattening(Good):
        def purify(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    assert fails(Flattening(), "purified images")


def test_hidden_randomness_of_the_global_generator_is_caught() -> None:
    class Hidden(GloballyNoisy):
        stochastic = False

    assert fails(Hidden(), "honest `stochastic`")


def test_hidden_randomness_of_a_private_generator_is_caught() -> None:
    class Private(Good):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x) + torch.randn(1, generator=self.generator)

    assert fails(Private(), "honest `stochastic`")
    assert fails(Private(), "reproducible draws")


def test_a_false_claim_of_randomness_is_caught() -> None:
    class Pretending(Good):
        stochastic = True

    assert fails(Pretending(), "honest `stochastic`")


def test_batch_dependent_output_is_caught() -> None:
    class Centred(Good):
        def classify(self, x: Tensor) -> Tensor:
            logits = super().classify(x)
            return logits - logits.mean(0)

    class BatchNormed(Good):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2, track_running_stats=False)

        def classify(self, x: Tensor) -> Tensor:
            return super().classify(self.norm(x))

    assert fails(Centred(), "batch independence")
    assert fails(BatchNormed(), "batch independence")


def test_in_place_change_of_the_images_is_caught() -> None:
    class Careless(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x.sub_(0.5))

    assert fails(Careless(), "images left alone")


def test_a_detached_classifier_is_caught() -> None:
    class Detached(Good):
        def classify(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().classify(x)

    assert fails(Detached(), "gradient of classify")


def test_a_forward_detached_beside_its_parts_is_caught() -> None:
    class Detached(Good):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    assert fails(Detached(), "gradient of forward")


def test_a_detached_purifier_is_a_warning_that_names_bpda() -> None:
    class Blocking(Good):
        def purify(self, x: Tensor) -> Tensor:
            return super().purify(x).detach()

    class Rounding(Good):
        def purify(self, x: Tensor) -> Tensor:
            return (x * 7).round() / 7

    class Numpy(Good):
        def purify(self, x: Tensor) -> Tensor:
            return torch.from_numpy(super().purify(x).numpy())

    for defense in (Blocking(), Rounding(), Numpy()):
        findings = {finding.name: finding for finding in check_defense(defense, X)}
        assert findings["gradient of purify"].status == "warned"
        assert "bpda" in findings["gradient of purify"].message
        assert findings["gradient under bpda"].status == "passed"
        assert "failed" not in {finding.status for finding in findings.values()}


def test_a_surrogate_that_carries_no_gradient_is_caught() -> None:
    class Blocked(Good):
        def purify_surrogate(self, x: Tensor) -> Tensor:
            return x.detach()

    assert fails(Blocked(), "gradient under bpda")


def test_dtype_promotion_is_caught() -> None:
    class Promoting(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x) * torch.ones(3, dtype=torch.float64)

    assert fails(Promoting(), "dtype")


def test_an_output_on_another_device_is_caught() -> None:
    class Elsewhere(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x).to("meta")

    assert fails(Elsewhere(), "device")


def test_nan_is_caught() -> None:
    class Undefined(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x).log()

    assert fails(Undefined(), "finite logits")


def test_saturated_logits_are_caught() -> None:
    class Saturated(Good):
        def classify(self, x: Tensor) -> Tensor:
            return 1e6 * super().classify(x)

    assert fails(Saturated(), "unsaturated logits")
    assert any("exactly 0" in message for message in gates(Saturated(), X))


def test_logits_whose_softmax_rounds_to_one_are_a_warning() -> None:
    class Confident(Good):
        def classify(self, x: Tensor) -> Tensor:
            rank = super().classify(x).argsort(1).argsort(1)
            return 20.0 * rank + super().classify(x)

    assert statuses(Confident())["unsaturated logits"] == "warned"


def test_a_forward_that_is_not_its_parts_is_caught() -> None:
    class Other(Good):
        def forward(self, x: Tensor) -> Tensor:
            return self.classify(x)

    assert fails(Other(), "forward is classify(purify(x))")


def test_a_gradient_that_is_not_the_derivative_is_caught() -> None:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad / 2

    class Lying(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(Halved.apply(x))

    class LyingPurifier(Good):
        def purify(self, x: Tensor) -> Tensor:
            return super().purify(Halved.apply(x))

    assert fails(Lying(), "finite differences of classify")
    assert statuses(LyingPurifier())["finite differences of purify"] == "warned"


def test_a_gradient_that_leaves_out_a_part_is_caught() -> None:
    class Partial(Good):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(torch.cat([x[:, :1], x[:, 1:].detach()], dim=1))

    assert fails(Partial(), "finite differences of classify")


def test_chance_accuracy_is_a_warning_where_labels_are_given() -> None:
    defense = Good()
    right = defense(X).argmax(1)
    told = {v.name: v.status for v in check_defense(defense, X, (right + 1) % 3)}
    assert told["accuracy"] == "warned"
    assert {v.name: v.status for v in check_defense(defense, X, right)}["accuracy"] == "passed"
