"""Training: a recipe decides the weights to the last bit, however often it is stopped, and what it leaves behind."""

from __future__ import annotations

import io
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import harness
from defenses.networks.cnn import CNN
from defenses.networks.pat_resnet import PATResNet
from defenses.training.classifier import Classifier
from defenses.undefended import Undefended
from harness import datasets
from harness.cli.train_progress import Display
from harness.errors import UserError
from harness.process import half_precision
from harness.training import loop
from harness.training.recipe import Schedule
from harness.training.state import State
from harness.weights import Checkpoint
from helpers.trained import RECIPE, quietly

NORMALISED = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
"""


def after_step(monkeypatch: pytest.MonkeyPatch, happen: Callable[[int], None]) -> None:
    """Calls `happen` with the number of steps done, at the end of every step."""
    step = loop.step

    def stepping(recipe: Any, trainer: Any, state: State, *images: Any) -> float:
        loss = step(recipe, trainer, state, *images)
        happen(state.step)
        return loss

    monkeypatch.setattr(loop, "step", stepping)


# --- the same weights


def test_the_same_recipe_makes_the_same_file(recipe: Path) -> None:
    torch.manual_seed(1)
    first = quietly(recipe, "first")
    torch.manual_seed(2)
    assert quietly(recipe, "second").read_bytes() == first.read_bytes()


def test_another_seed_makes_other_weights(recipe: Path) -> None:
    first = quietly(recipe, "first")
    recipe.write_text(RECIPE.replace("seed: 5", "seed: 6"))
    assert quietly(recipe, "second").read_bytes() != first.read_bytes()


def test_training_leaves_the_global_generator_alone(recipe: Path) -> None:
    before = torch.get_rng_state()
    quietly(recipe, "runs")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_three_times_ends_with_the_weights_of_one_that_was_not(
    number: signal.Signals, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quietly(recipe, "whole")
    after_step(monkeypatch, lambda step: signal.raise_signal(number) if step in (1, 6, 13) else None)
    handler = signal.getsignal(number)
    for step in (1, 6, 13):
        with pytest.raises(KeyboardInterrupt):
            quietly(recipe, "stopped")
        assert torch.load(recipe.parent / "stopped/tiny/checkpoint.pt")["step"] == step
    assert quietly(recipe, "stopped").read_bytes() == whole.read_bytes()
    assert signal.getsignal(number) is handler


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quietly(recipe, "whole")
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)

    def crash(step: int) -> None:
        if step == 8:
            raise MemoryError

    with monkeypatch.context() as crashing:
        after_step(crashing, crash)
        with pytest.raises(MemoryError):
            quietly(recipe, "crashed")
    assert torch.load(recipe.parent / "crashed/tiny/checkpoint.pt")["step"] == 7
    assert quietly(recipe, "crashed").read_bytes() == whole.read_bytes()


def test_bfloat16_is_the_type_of_the_products_and_float32_that_of_the_weights(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []
    forward = CNN.forward

    def watched(network: CNN, x: torch.Tensor) -> torch.Tensor:
        out = forward(network, x)
        kinds.append((network.training, out.dtype))
        return out

    monkeypatch.setattr(CNN, "forward", watched)
    exact = load_file(quietly(recipe, "float32"))
    assert {kind for _, kind in kinds} == {torch.float32}
    kinds.clear()
    recipe.write_text(RECIPE + "precision: bfloat16\n")
    lower = load_file(quietly(recipe, "bfloat16"))
    assert set(kinds) == {(True, torch.bfloat16), (False, torch.float32)}  # the card's accuracy is of float32
    for name, weight in lower.items():
        assert weight.dtype == torch.float32 and not torch.equal(weight, exact[name])
        assert torch.allclose(weight, exact[name], atol=0.1)


@pytest.mark.parametrize("emulated", [True, False])
def test_emulated_bfloat16_is_told_of_and_computed_all_the_same(
    recipe: Path, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: not emulated)
    assert not half_precision.is_emulated("float32", torch.device("cpu"))
    assert not half_precision.is_emulated("bf16", torch.device("cuda"))
    recipe.write_text(RECIPE + "precision: bfloat16\n")
    output = io.StringIO()
    quietly(recipe, "bfloat16", callback=Display(Console(file=output, width=200)))
    assert ("this CPU emulates bfloat16, several times slower than float32" in output.getvalue()) == emulated


def test_a_checkpoint_from_before_a_key_existed_had_its_default(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quietly(recipe, "whole")
    after_step(monkeypatch, lambda step: signal.raise_signal(signal.SIGINT) if step == 4 else None)
    with pytest.raises(KeyboardInterrupt):
        quietly(recipe, "stopped")
    path = recipe.parent / "stopped/tiny/checkpoint.pt"
    content = torch.load(path)
    content["recipe"] = content["recipe"].replace('"precision":"float32",', "")
    assert "precision" not in content["recipe"]
    torch.save(content, path)
    assert quietly(recipe, "stopped").read_bytes() == whole.read_bytes()
    torch.save(content, path)
    recipe.write_text(RECIPE + "precision: bfloat16\n")
    with pytest.raises(UserError, match="made with another precision"):
        quietly(recipe, "stopped")


def test_parameters_stored_as_float16_are_those_of_the_run_rounded(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe.parent / "net.py").write_text(NORMALISED)
    recipe.write_text(RECIPE.replace("{type: cnn, width: 4, dropout: 0.5}", "{type: './net.py:Net'}"))
    path = quietly(recipe, "runs")
    whole, size = load_file(path), path.stat().st_size
    recipe.write_text(recipe.read_text() + "stored: float16\n")
    monkeypatch.delattr(loop, "step")  # the run is finished: its file alone is another
    half = load_file(quietly(recipe, "runs"))
    network = Checkpoint.find(str(path)).network({"type": str(recipe.parent / "net.py:Net")})
    learned = dict(network.named_parameters())
    for name, weight in whole.items():
        assert torch.equal(half[name], weight.half() if name in learned else weight)
    assert 0 < len(learned) < len(whole) and path.stat().st_size < 0.6 * size
    assert all(torch.equal(weight, half[name].float()) for name, weight in learned.items())
    assert {weight.dtype for weight in learned.values()} == {torch.float32}


def test_from_python_a_training_returns_a_checkpoint_that_knows_the_users_network(recipe: Path) -> None:
    (recipe.parent / "net.py").write_text(NORMALISED)
    recipe.write_text(RECIPE.replace("{type: cnn, width: 4, dropout: 0.5}", "{type: './net.py:Net'}"))
    checkpoint = harness.train(str(recipe), device="cpu", runs=str(recipe.parent / "runs"))
    weights = load_file(quietly(recipe, "runs"))
    found = checkpoint.network().state_dict()
    assert weights.keys() == found.keys() and all(torch.equal(weights[name], found[name]) for name in weights)


def test_a_finished_run_is_not_trained_again(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quietly(recipe, "runs").read_bytes()
    monkeypatch.delattr(loop, "step")
    assert quietly(recipe, "runs").read_bytes() == first


# --- what it leaves behind


def test_the_card_describes_the_file_and_its_accuracy(recipe: Path) -> None:
    path = quietly(recipe, "runs", out=recipe.parent / "released")
    assert path == recipe.parent / "released" / "tiny.safetensors"
    found = Checkpoint.find(str(path))
    assert found.card is not None
    data = datasets.load("digits", "test")
    correct = found.network()(data.images).argmax(1) == data.labels
    assert found.card.clean_accuracy == pytest.approx(correct.float().mean().item())
    assert (found.card.steps, found.card.seed, found.card.licence) == (14, 5, "MIT")
    assert found.card.parameters == sum(value.numel() for value in load_file(path).values())


@pytest.mark.slow
def test_the_accuracy_is_that_of_the_defense_where_the_network_normalises_its_images(recipe: Path) -> None:
    network = "{type: pat_resnet, blocks: [1, 1, 1, 1], width: 4, in_channels: 1, mean: [0.9], std: [0.1]}"
    recipe.write_text(RECIPE.replace("{type: cnn, width: 4, dropout: 0.5}", network))
    defense = Undefended(Checkpoint.find(str(quietly(recipe, "runs")))).eval()
    data = datasets.load("digits", "test")
    assert isinstance(defense.network, PATResNet)
    assert defense.expected_accuracy == (defense(data.images).argmax(1) == data.labels).double().mean().item()


# --- its parts


def test_every_image_comes_once_per_epoch_in_changing_order() -> None:
    rows = torch.cat([loop.batch(step, 6, 10, seed=0) for step in range(10)]).view(6, 10)
    assert (rows.sort(1).values == torch.arange(10)).all()
    assert len(rows.unique(dim=0)) == 6


def test_the_schedule_rises_linearly_and_falls_along_a_cosine() -> None:
    factors = [Schedule(name="cosine", warmup=4).factor(step, 14) for step in range(14)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1]
    assert factors[4:] == pytest.approx([math.cos(math.pi * i / 20) ** 2 for i in range(10)])
    assert {Schedule(name="constant").factor(step, 14) for step in range(14)} == {1}


def test_the_average_is_the_weighted_mean_of_the_weights_it_saw() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    state = State(network, torch.optim.AdamW(network.parameters()), 0.5, Classifier())
    expected = network.weight.item()
    for step, value in enumerate([3.0, -1.0, 7.0, 2.0, 5.0], start=1):
        network.weight.data.fill_(value)
        state.advance()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert state.weights()["weight"].item() == pytest.approx(expected)
