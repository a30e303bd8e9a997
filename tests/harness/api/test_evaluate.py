"""`harness.evaluate`: the engine of a suite, for what is given in Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import harness
from attacks.pgd import PGD
from harness.api.presets import presets
from harness.evaluation.pending import CellRun
from harness.quantity import Quantity
from harness.results.record import Record


def linear(seed: int = 0, classes: int = 10) -> nn.Sequential:
    """A classifier of 8x8 grey images that was never trained."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def cheap(**changes: Any) -> dict[str, Any]:
    """Arguments of an evaluation that takes no time."""
    return {"attacks": {"type": "pgd", "steps": 2}, "data": "digits", "size": 4, "name": "net"} | changes


class Threshold(nn.Module):
    """Class 1 where the only pixel is above 1/2: it withstands Linf eps exactly where the pixel is further off."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.5 - x.flatten(1), x.flatten(1) - 0.5], dim=1)


class Noisy(harness.Defense):
    stochastic = True

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        self.network, self.noise = linear(), noise

    def classify(self, x: Tensor) -> Tensor:
        from harness.randomness import normal

        return self.network(x) + self.noise * normal(self.seeds_for(x), (10,))


PIXELS = torch.tensor([0.05, 0.35, 0.45, 0.55, 0.75, 0.95]).view(6, 1, 1, 1)


def test_verdicts_are_those_of_the_closed_form() -> None:
    labels = (PIXELS.flatten() > 0.5).long()
    results = harness.evaluate(Threshold(), "pgd", data=(PIXELS, labels), eps=0.2)
    verdicts = results.frame["verdict"].tolist()
    assert verdicts == ["robust", "fooled", "fooled", "fooled", "robust", "robust"]
    (row,) = results.summary.to_dict("records")
    assert (row["accuracy"], row["clean"], row["n"], row["threat"]) == (0.5, 1.0, 6, "Linf 0.2")
    assert row["low"] < 0.5 < row["high"]


def test_mean_and_std_stand_before_the_model_and_the_budget_counts_in_pixels() -> None:
    labels = (PIXELS.flatten() > 0.5).long()
    shifted = lambda x: Threshold()(x + 0.5)  # noqa: E731  # its threshold lies at 0
    results = harness.evaluate(shifted, "pgd", data=(PIXELS, labels), eps=0.2, mean=[0.5], std=[1.0])
    assert results.frame["verdict"].tolist() == ["robust", "fooled", "fooled", "fooled", "robust", "robust"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", presets().presets)
@pytest.mark.parametrize("model", [linear(), Noisy(0.01)], ids=["deterministic", "stochastic"])
def test_every_preset_runs_to_its_end_on_either_kind_of_defense(model: nn.Module, preset: str) -> None:
    """A weak budget, so that no attack ends before it began."""
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    results = harness.evaluate(model, preset, data=(x, linear()(x).argmax(1)), eps=0.001)
    assert results.errors.empty
    assert (results.summary["n"] == 2).all() and (results.summary["accuracy"] == 1).all()


@pytest.mark.slow
def test_the_same_model_has_the_same_records_whatever_it_is_given_as(tmp_path: Path) -> None:
    class Plain(harness.Defense):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def classify(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x)
            return logits

    network = linear()
    votes = [
        harness.evaluate(model, **cheap()).frame["clean_margins"].tolist()
        for model in (network, Plain(network), lambda x: network(x), network.forward)
    ]
    assert votes[0] == votes[1] == votes[2] == votes[3]


def test_the_model_the_generators_and_the_settings_stay_as_they_were() -> None:
    network = nn.Sequential(linear(), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    harness.evaluate(network, **cheap())
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_a_second_call_resumes_and_has_nothing_to_do(tmp_path: Path) -> None:
    network = linear()
    call = cheap(out=tmp_path / "out", shard=2)
    first = harness.evaluate(network, **call)
    (tmp_path / "out/cells/net/pgd/00002-00004.parquet").unlink()
    second = harness.evaluate(network, **call)
    third = harness.evaluate(network, **call)
    assert (first.computed, second.computed, third.computed) == (2, 1, 0)
    same = [name for name in first.frame.columns if name != "seconds"]
    assert first.frame[same].equals(third.frame[same])


def test_a_model_that_changed_is_refused_and_the_part_is_named(tmp_path: Path) -> None:
    network = linear()
    call = cheap(out=tmp_path / "out")
    harness.evaluate(network, **call)
    with torch.no_grad():
        network[1].bias.add_(1)
    with pytest.raises(harness.UserError, match=r"weights and state of defense 'net' as built \(network\)"):
        harness.evaluate(network, **call)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"eps": "1/255"}, {"seed": 1}, {"attacks": "pgd"}])
def test_another_call_is_refused_in_the_same_directory(tmp_path: Path, change: dict[str, Any]) -> None:
    harness.evaluate(linear(), **cheap(out=tmp_path))
    with pytest.raises(harness.UserError, match="the suite changed since these results were made"):
        harness.evaluate(linear(), **cheap(out=tmp_path, **change))


def test_other_images_are_refused_in_the_same_directory_and_those_kept_are_untouched(tmp_path: Path) -> None:
    labels = (PIXELS.flatten() > 0.5).long()
    harness.evaluate(Threshold(), "pgd", data=(PIXELS, labels), eps=0.2, out=tmp_path)
    kept = (tmp_path / "data.npz").read_bytes()
    with pytest.raises(harness.UserError, match="not those that the results"):
        harness.evaluate(Threshold(), "pgd", data=(PIXELS / 2, labels), eps=0.2, out=tmp_path)
    with pytest.raises(harness.UserError, match="not those that the results"):
        harness.evaluate(Threshold(), "pgd", data=(PIXELS, labels), eps=0.2, out=tmp_path, num_classes=2)
    assert (tmp_path / "data.npz").read_bytes() == kept


def test_the_attack_may_be_an_object_and_its_settings_are_part_of_the_claim(tmp_path: Path) -> None:
    attack = PGD("Linf", Quantity("1/255"), steps=2)
    first = harness.evaluate(linear(), attack, data="digits", size=4, out=tmp_path)
    assert first.summary.loc[0, "threat"] == "Linf 1/255"
    assert harness.evaluate(linear(), attack, data="digits", size=4, out=tmp_path).computed == 0
    attack.step_size *= 2
    with pytest.raises(harness.UserError, match=r"state of attack of 'Sequential/PGD' as built \(step_size\)"):
        harness.evaluate(linear(), attack, data="digits", size=4, out=tmp_path)


@pytest.mark.slow
def test_several_models_meet_the_attacks_of_their_kind() -> None:
    results = harness.evaluate({"plain": linear(), "noisy": Noisy()}, "standard", data="digits", size=2, votes=3)
    pairs = set(zip(results.summary["defense"], results.summary["attack"], strict=True))
    assert pairs == {("plain", "autoattack"), ("noisy", "apgd"), ("noisy", "bpda")}
    assert {len(votes) for votes in results.frame.query("defense == 'noisy'")["adv_votes"]} == {3}


def test_without_out_the_files_vanish_with_the_results() -> None:
    results = harness.evaluate(linear(), **cheap())
    path = results.path
    assert path.is_dir()
    del results
    assert not path.exists()


def test_a_model_that_fails_is_an_error_and_never_robust() -> None:
    def broken(x: Tensor) -> Tensor:
        if x.requires_grad:
            raise RuntimeError("planted failure")
        return torch.eye(10)[torch.zeros(len(x), dtype=torch.int64)]

    data = torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 0])
    results = harness.evaluate(broken, **cheap(data=data, size=None, eps=0.1))
    assert results.frame["verdict"].tolist() == ["error", "error", "fooled", "error"]
    assert "planted failure" in results.errors["error"][0] and "3 images ended in errors" in repr(results)
    assert results.summary.loc[0, "status"] == "failed"


def test_an_untold_random_model_has_its_numbers_marked() -> None:
    network = linear()
    results = harness.evaluate(lambda x: network(x) + torch.randn(len(x), 10), **cheap())
    assert "stochastic = False, but two calls differ" in results.summary.loc[0, "flags"]


def test_nothing_is_printed_and_the_callback_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Count(harness.Callback):
        records = 0

        def finished(self, run: CellRun, records: Sequence[Record]) -> None:
            self.records += len(records)

    callback = Count()
    harness.evaluate(linear(), **cheap(callback=callback))
    assert callback.records == 4
    assert capsys.readouterr() == ("", "")


def test_a_dataset_of_pytorch_is_taken_item_by_item_and_only_as_far_as_needed() -> None:
    class Once(Dataset[tuple[Tensor, int]]):
        def __init__(self) -> None:
            self.taken: list[int] = []

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            self.taken.append(index)
            return torch.full((1, 8, 8), index / 100), index % 10

    data = Once()
    results = harness.evaluate(linear(), **cheap(data=data, eps=0.1))
    assert sorted(results.frame["label"]) == sorted(index % 10 for index in data.taken)
    assert len(data.taken) == 4


def test_data_are_the_same_however_they_are_given(tmp_path: Path) -> None:
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    forms: list[Any] = [(x, y), (x.numpy(), y.tolist()), TensorDataset(x, y)]
    frames = [harness.evaluate(linear(), **cheap(data=data, size=None, eps=0.1)).frame for data in forms]
    margins = [frame["adv_margins"].tolist() for frame in frames]
    assert margins[0] == margins[1] == margins[2]


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "no such attack": ({"attacks": "pdg"}, "Did you mean 'pgd'"),
    "no such preset": ({"attacks": "standart"}, "Did you mean 'standard'"),
    "no such argument": ({"attacks": {"type": "pgd", "stpes": 2}}, "Did you mean 'steps'"),
    "no type": ({"attacks": {"steps": 2}}, "has no type"),
    "an attack by name that is none": ({"attacks": {"naive": 3}}, "has no type"),
    "no attack": ({"attacks": []}, "no attack"),
    "two budgets": ({"attacks": {"type": "pgd", "norm": "L2", "eps": 1}, "eps": 0.1}, "own budget"),
    "a budget for nothing": ({"attacks": "clean", "eps": 0.1}, "takes no"),
    "an object with a budget": ({"attacks": PGD("Linf", Quantity(0.1)), "eps": 0.2}, "own budget, Linf 0.1"),
    "no usual budget": ({"norm": "L1"}, "no usual L1 budget"),
    "no number": ({"eps": "8/0"}, "divides by zero"),
    "a negative budget": ({"eps": -0.1}, "must not be negative"),
    "another unit": ({"eps": 8}, "8/255"),
    "no such dataset": ({"data": "cifar1"}, "Did you mean 'cifar10'"),
    "too many images": ({"size": 501}, "501 of the 500"),
    "no images": ({"size": 0}, "at least 1"),
    "no votes": ({"votes": 0}, "'protocol.votes' of the call of evaluate is 0"),
    "no such gate": ({"gates": "of"}, "gates"),
    "an impossible name": ({"name": "../net"}, "is not valid"),
    "images in 0 to 255": (
        {"data": (torch.rand(4, 1, 8, 8) * 255, torch.arange(4))},
        "outside \\[0, 1\\].*Divide them by 255",
    ),
    "normalised images": ({"data": (torch.randn(4, 1, 8, 8), torch.arange(4))}, "outside \\[0, 1\\].*mean"),
    "fewer labels": ({"data": (torch.rand(4, 1, 8, 8), torch.arange(3))}, "4 images and 3 labels"),
    "no data": ({"data": 3}, "of type int"),
    "other classes": ({"data": (torch.rand(4, 1, 8, 8), torch.arange(4)), "num_classes": 7, "eps": 0.1}, "7"),
    "no device": ({"device": "gpu"}, "device 'gpu' cannot be used"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_mistake_in_a_call_is_told_with_its_remedy(call: str) -> None:
    changes, told = CALLS[call]
    with pytest.raises(harness.UserError, match=told):
        harness.evaluate(linear(), **cheap(**changes))


def test_a_mistake_is_placed_at_the_line_of_the_call() -> None:
    with pytest.raises(harness.UserError) as error:
        harness.evaluate(linear(), "pdg", data="digits")
    assert error.value.where and error.value.where.file.name == "test_evaluate.py"
    assert 'harness.evaluate(linear(), "pdg"' in Path(__file__).read_text().splitlines()[error.value.where.line - 1]


@pytest.mark.parametrize("model", [3, "net", nn.Linear, None])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(harness.UserError, match="the model is"):
        harness.evaluate(model, **cheap())


def test_a_defense_says_itself_how_it_normalises() -> None:
    with pytest.raises(harness.UserError, match="Leave out `mean`"):
        harness.evaluate(Noisy(), **cheap(mean=[0.5]))


def test_what_cannot_be_copied_is_refused() -> None:
    network = linear()
    network.cache = torch.ones(2, requires_grad=True) * 2  # as some modules keep their last activations
    with pytest.raises(harness.UserError, match="cannot be copied"):
        harness.evaluate(network, **cheap())


def test_every_accuracy_lies_within_its_interval() -> None:
    summary = harness.evaluate({"a": linear(0), "b": linear(1)}, **cheap(name=None, size=16)).summary
    for row in summary.to_dict("records"):
        assert row["low"] <= row["accuracy"] <= row["high"] and not math.isnan(row["low"])
