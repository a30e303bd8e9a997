"""A shard's records say what happened, whatever an attack claims or does."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from harness.attack import Adversarial, Attack, Cost
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.evaluation.seeds import Seeds
from harness.evaluation.shard import evaluate, predict_clean
from harness.evaluation.shard_records import CHANGED
from harness.evaluation.task import ShardTask
from harness.quantity import Quantity
from harness.randomness import fold, normal, uniform
from harness.results.record import Record
from harness.target import Target
from harness.threat import Flow, Linf, warp

EPS = Quantity("1/8")


class Brightness(Defense):
    """Two classes by the mean pixel: bright images are class 1."""

    num_classes = 2

    def classify(self, x: Tensor) -> Tensor:
        margin = x.flatten(1).mean(1) - 0.5
        return torch.stack([-margin, margin], 1)


class Noisy(Brightness):
    stochastic = True

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.05 * normal(self.seeds_for(x), x.shape[1:])).clamp(0, 1)


class Shift(Attack):
    """Moves every pixel towards the other class by `amount`."""

    def __init__(self, amount: float = 1 / 8) -> None:
        super().__init__()
        self.amount, self.threat = amount, Linf(EPS)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        target(x)
        return (x + self.amount * (1 - 2 * y.float())[:, None, None, None]).clamp(0, 1)

    def cost(self, num_classes: int) -> Cost:
        return Cost(1, 0)


class RandomShift(Shift):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return (x + float(EPS) * (2 * uniform(fold(target.seeds, 7), x.shape[1:]) - 1)).clamp(0, 1)


def batch(count: int = 8, start: int = 100) -> Images:
    """Uniform images of brightness 0.3 (class 0) and 0.55 (class 1) in turn: only the latter lie within reach."""
    y = torch.arange(count) % 2
    x = torch.where(y == 1, 0.55, 0.3)[:, None, None, None].repeat(1, 1, 4, 4)
    x[:, 0, 0, 0] += 0.02 * torch.arange(count)  # no two alike: passes are counted by the nearest image
    x[:, 0, 0, 1] -= 0.02 * torch.arange(count)
    return Images(torch.arange(start, start + count), x, y)


def run(defense: Defense, attack: Attack, images: Images, votes: int = 1) -> tuple[list[Record], dict[str, Tensor]]:
    seeds = Seeds(0, "defense", "attack")
    clean = predict_clean(defense, images, seeds, votes, batch_size=3)
    task = ShardTask(defense, attack, images, seeds, clean, votes, 3, lambda target: None)
    return evaluate(task).shard(slice(0, len(images)))


def test_verdicts_are_robust_out_of_reach_and_fooled_within() -> None:
    records, tensors = run(Brightness(), Shift(), batch())
    assert [r.verdict for r in records] == ["robust", "fooled"] * 4
    assert [r.linf for r in records] == pytest.approx([0.125] * 8)
    assert [r.l2 for r in records] == pytest.approx([0.5] * 8)
    assert [r.forwards for r in records] == [1] * 8
    assert torch.equal(tensors["images"][0], torch.full((1, 4, 4), 0.425))


def test_an_image_over_budget_is_discarded_and_flagged() -> None:
    images = batch()
    records, tensors = run(Brightness(), Shift(0.2), images)
    assert all(r.verdict == "robust" and r.flags == ["violation"] for r in records)
    assert [r.violation for r in records] == pytest.approx([0.075] * 8, abs=1e-6)
    assert torch.equal(tensors["images"], images.x)


def test_a_misclassified_image_of_a_deterministic_defense_is_fooled_without_being_attacked() -> None:
    images = batch()
    images.y[0] = 1
    records, tensors = run(Brightness(), Shift(), images)
    assert records[0].verdict == "fooled" and records[0].forwards == 0
    assert torch.equal(tensors["images"][0], images.x[0])


class Restless(Brightness):
    """Takes itself for deterministic, and answers with other margins every time."""

    calls = 0

    def classify(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (1 + self.calls) * super().classify(x)


class BesideOthers(Brightness):
    """Looks at the brightest image of the batch."""

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x / x.max())


@pytest.mark.parametrize("defense", [Restless, BesideOthers])
def test_two_answers_on_an_image_that_the_attack_left_alone_are_flagged(defense: type[Brightness]) -> None:
    images = batch()
    images.y[0] = 1  # misclassified from the start, so not attacked
    records, _ = run(defense(), Shift(), images)
    unchanged = [record.linf == 0 for record in records]
    assert any(unchanged) and [CHANGED in record.flags for record in records] == unchanged


@pytest.mark.parametrize("defense", [Brightness, Noisy])
def test_a_defense_that_keeps_its_word_is_not_flagged(defense: type[Brightness]) -> None:
    images = batch()
    images.y[0] = 1
    records, _ = run(defense(), Shift(0.2), images, votes=3)
    assert all(CHANGED not in record.flags for record in records)


def test_a_crash_of_the_attack_is_an_error_and_never_robust() -> None:
    class Crash(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    records, tensors = run(Brightness(), Crash(), batch())
    assert {r.verdict for r in records} == {"error"}
    assert all("out of memory" in (r.error or "") and "test_shard.py:" in (r.error or "") for r in records)
    assert all(r.clean_votes and not r.adv_votes and not r.adv_margins for r in records)
    assert torch.equal(tensors["images"], batch().x)


def test_an_image_that_needed_no_attack_keeps_its_verdict_when_the_attack_or_the_judging_fails() -> None:
    class Crash(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            raise RuntimeError("planted")

    class Shy(Brightness):
        def classify(self, x: Tensor) -> Tensor:
            if not torch.isin(x[:, 0, 3, 3], torch.tensor([0.3, 0.55])).all():  # as the clean images have it
                raise RuntimeError("planted")
            return super().classify(x)

    images = batch()
    images.y[:3] = 1 - images.y[:3]
    expected = [(r.adv_votes, r.adv_margins) for r in run(Brightness(), Shift(0.0), images)[0][:3]]
    for defense, attack in ((Brightness(), Crash()), (Shy(), Shift(0.04))):
        records, tensors = run(defense, attack, images)
        assert [r.verdict for r in records] == ["fooled"] * 3 + ["error"] * 5
        assert [(r.adv_votes, r.adv_margins) for r in records[:3]] == expected
        assert all("planted" in (r.error or "") and not r.adv_votes for r in records[3:])
        assert torch.equal(tensors["images"][:3], images.x[:3])


def test_an_image_without_a_start_is_an_error_unless_it_needs_no_attack() -> None:
    images = batch()
    images.y[0] = 1 - images.y[0]
    seeds = Seeds(0, "defense", "attack")
    clean = predict_clean(Brightness(), images, seeds, 1, batch_size=3)
    task = ShardTask(
        Brightness(), Shift(), images, seeds, clean, 1, 3, lambda target: None, None, {0: "gone", 1: "gone"}
    )
    records, tensors = evaluate(task).shard(slice(0, 8))
    free, _ = run(Brightness(), Shift(), images)
    assert [r.error for r in records] == [None, "gone"] + [None] * 6
    assert [r.verdict for r in records[2:]] == [r.verdict for r in free[2:]] and records[0].verdict == "fooled"
    assert torch.equal(tensors["images"][1], images.x[1]) and records[1].forwards == 0


@pytest.mark.parametrize("error", [MemoryError("full"), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_image_out_of_memory_is_an_error_that_names_the_remedy(error: Exception) -> None:
    class Large(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            raise error

    records, _ = run(Brightness(), Large(), batch())
    assert all(r.verdict == "error" and "it takes a device with more memory" in (r.error or "") for r in records)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_image_that_is_not_finite_is_an_error_of_that_image_alone(value: float) -> None:
    class Broken(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            x[2, 0, 0, 0] = value
            return x

    records, tensors = run(Brightness(), Broken(), batch())
    assert [r.verdict for r in records] == ["robust", "robust", "error"] + ["robust"] * 5
    assert torch.isfinite(tensors["images"]).all()


def test_two_votes_that_differ_are_robust_for_neither_class() -> None:
    images = batch(16)
    images.x[:] = 0.5  # on the border: each draw falls to either side
    records, _ = run(Noisy(), Shift(0.0), images, votes=2)
    ties = [r for r in records if len(set(r.adv_votes)) == 2]
    assert {r.label for r in ties} == {0, 1} and {r.verdict for r in ties} == {"fooled"}
    assert all((r.verdict == "robust") == (r.adv_votes == [r.label] * 2) for r in records)


def test_nan_logits_are_an_error_of_that_image_alone() -> None:
    class Cracked(Brightness):
        def classify(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1).amax(1, keepdim=True) > 0.6, torch.nan, super().classify(x))

    class Up(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return x + 0.1

    records, _ = run(Cracked(), Up(), batch())
    assert [r.verdict for r in records] == ["robust", "error"] * 4


def test_wrong_shape_is_an_error() -> None:
    class Crop(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return x[..., :2]

    records, _ = run(Brightness(), Crop(), batch())
    assert all(r.verdict == "error" and "shape" in (r.error or "") for r in records)


def test_stochastic_defenses_are_asked_many_times_and_attacked_on_every_image() -> None:
    images = batch()
    images.y[0] = 1
    records, _ = run(Noisy(), Shift(), images, votes=5)
    assert all(len(r.clean_votes) == len(r.adv_votes) == len(r.adv_margins) == 5 for r in records)
    assert all(r.forwards == 1 for r in records)
    assert len({tuple(r.adv_margins) for r in records}) == 8
    assert all(len(set(r.adv_margins)) == 5 for r in records)


@pytest.mark.parametrize("defense", [Brightness(), Noisy()], ids=["deterministic", "stochastic"])
def test_records_do_not_depend_on_how_images_are_grouped(defense: Defense) -> None:
    images = batch()
    whole, tensors = run(defense, RandomShift(), images, votes=3)
    halves = [run(defense, RandomShift(), images.take(part), votes=3) for part in (slice(0, 3), slice(3, 8))]
    parts = [record for records, _ in halves for record in records]
    assert [asdict(r) | {"seconds": 0} for r in whole] == [asdict(r) | {"seconds": 0} for r in parts]
    assert torch.equal(tensors["images"], torch.cat([t["images"] for _, t in halves]))


def test_global_generators_are_seeded_for_the_attack_and_left_as_they_were() -> None:
    class Global(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            return (x + 0.1 * torch.rand_like(x)).clamp(0, 1)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = run(Brightness(), Global(), batch())[1]["images"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(first, run(Brightness(), Global(), batch())[1]["images"])


def test_flows_are_measured_and_kept_and_a_lie_about_them_is_an_error() -> None:
    class Bend(Shift):
        def __init__(self, honest: bool) -> None:
            super().__init__()
            self.threat, self.honest = Flow(Quantity(0.2)), honest

        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
            flow = torch.full((len(x), 4, 4, 2), 0.1)
            return Adversarial(warp(x, flow) if self.honest else x * 0.5, flow, ("bent",))

    records, tensors = run(Brightness(), Bend(True), batch())
    assert [r.flow for r in records] == pytest.approx([0.1] * 8)
    assert all("bent" in r.flags and r.verdict != "error" for r in records)
    assert tensors["flow"].shape == (8, 4, 4, 2)
    records, tensors = run(Brightness(), Bend(False), batch())
    assert all(r.verdict == "error" for r in records)
    assert not tensors["flow"].any()


def test_remarks_on_an_image_are_kept_in_its_own_record() -> None:
    class Remarks(Shift):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
            return Adversarial(x, remarks=tuple((f"of mean {image.mean():.4f}",) for image in x))

    images = batch()
    wrong = Images(images.index, images.x, torch.where(images.index == 103, 0, images.y))  # needs no attack
    records, _ = run(Brightness(), Remarks(), wrong)
    remarks = [[f"of mean {image.mean():.4f}"] for image in images.x]
    assert [record.flags for record in records] == [*remarks[:3], [], *remarks[4:]]
