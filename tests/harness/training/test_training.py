"""Training: a recipe decides the weights to the last bit, however often it is stopped; its mistakes are told."""

from __future__ import annotations

import io
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from defenses.networks.cnn import CNN
from defenses.networks.pat_resnet import PATResNet
from defenses.training.classifier import Classifier
from defenses.undefended import Undefended
from harness import datasets
from harness.cli import train_progress
from harness.cli.train_progress import Display
from harness.errors import UserError
from harness.process import half_precision
from harness.training import loop, train
from harness.training.recipe import Schedule
from harness.training.state import State
from harness.weights import Checkpoint

RECIPE = """\
recipe: tiny
trainer: {type: classifier, shift: 1}
network: {type: cnn, width: 4, dropout: 0.5}
dataset: {name: digits}
steps: 14
batch_size: 100
optimizer: {lr: 1e-2, weight_decay: 0.1, clip: 1.0}
schedule: {name: cosine, warmup: 3}
ema: 0.9
seed: 5
card: {summary: a test, licence: MIT, source: this test}
"""

NORMALISED = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def quietly(recipe: Path, runs: str, **options: Any) -> Path:
    return train(recipe, runs=recipe.parent / runs, **options)


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
def test_images_are_chosen_as_in_a_suite_and_the_accuracy_is_of_the_whole_test_split(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    loss = Classifier.loss

    def watched(trainer: Classifier, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return loss(trainer, network, x, y)

    monkeypatch.setattr(Classifier, "loss", watched)
    recipe.write_text(RECIPE.replace("name: digits", "name: digits, size: 300, limit: 50, seed: 4"))
    screen = io.StringIO()
    quietly(recipe, "runs", callback=Display(Console(file=screen, width=200)))
    chosen = np.random.RandomState(4).permutation(1297)[:50]
    expected = datasets.load("digits", "train").images[chosen]
    assert torch.equal(torch.cat(seen).unique(dim=0), expected.unique(dim=0))
    assert "on 500 test images" in screen.getvalue()


def test_a_folder_of_images_is_resized_for_training_as_for_an_attack(recipe: Path) -> None:
    for split in ("train", "test"):
        for label in "ab":
            (recipe.parent / "photos" / split / label).mkdir(parents=True)
            Image.new("L", (20, 16), 200 * "ab".index(label)).save(recipe.parent / f"photos/{split}/{label}/0.png")
    section = "{name: folder, path: photos, resize: 10, crop: 8}"
    text = RECIPE.replace("{name: digits}", section).replace("batch_size: 100", "batch_size: 2")
    recipe.write_text(text.replace("width: 4, dropout: 0.5", "width: 4, num_classes: 2"))
    card = Checkpoint.find(str(quietly(recipe, "runs"))).card
    assert card and card.num_classes == 2


def test_the_accuracy_is_that_of_the_defense_where_the_network_normalises_its_images(recipe: Path) -> None:
    network = "{type: pat_resnet, blocks: [1, 1, 1, 1], width: 4, in_channels: 1, mean: [0.9], std: [0.1]}"
    recipe.write_text(RECIPE.replace("{type: cnn, width: 4, dropout: 0.5}", network))
    defense = Undefended(Checkpoint.find(str(quietly(recipe, "runs")))).eval()
    data = datasets.load("digits", "test")
    assert isinstance(defense.network, PATResNet)
    assert defense.expected_accuracy == (defense(data.images).argmax(1) == data.labels).double().mean().item()


def test_progress_without_a_terminal_is_plain_lines(recipe: Path) -> None:
    screen = io.StringIO()
    train(recipe, callback=Display(Console(file=screen)), runs=recipe.parent)
    lines = screen.getvalue().splitlines()
    assert any("step 14/14" in line for line in lines)
    assert any("clean accuracy" in line and "500 test images" in line for line in lines)
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.25, "loss 2.0000, 4.0 steps/s, 25 s left"), (80.0, "80.0 s a step, 2 h 13 min left")]
)
def test_a_slow_training_tells_seconds_a_step_and_hours(
    seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, screen = [0.0], io.StringIO()
    monkeypatch.setattr(train_progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(train_progress, "LINE_EVERY", 0.0)
    display = Display(Console(file=screen, width=200))
    with display.training("tiny", 0, 102):
        for step in (1, 2):
            now[0] += seconds
            display.stepped(step, 2.0)
    assert screen.getvalue().splitlines()[-1].endswith(shown)


def test_a_terminal_gets_a_bar(recipe: Path) -> None:
    screen = io.StringIO()
    train(recipe, callback=Display(Console(file=screen, force_terminal=True)), runs=recipe.parent)
    assert "14/14" in screen.getvalue()


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


# --- mistakes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 14", "steps: 0", r"tiny\.yaml:5: .*steps.* is 0"),
        ("steps: 14", "setps: 14", r"needs 'steps'|no key 'setps'"),
        ("warmup: 3", "warm: 3", r"tiny\.yaml:8: there is no key 'warm' in schedule\. Did you mean 'warmup'"),
        ("type: classifier", "type: clasifier", r"tiny\.yaml:2: .*Did you mean 'classifier'"),
        ("shift: 1", "shfit: 1", r"tiny\.yaml:2: trainer 'classifier' has no argument 'shfit'"),
        ("shift: 1", "shift: -1", r"tiny\.yaml:2: .*shift is -1"),
        ("type: cnn", "type: cnnn", r"tiny\.yaml:3: .*Did you mean 'cnn'"),
        ("width: 4", "widht: 4", r"tiny\.yaml:3: network 'cnn' cannot be built"),
        ("width: 4", "image_size: 16", r"tiny\.yaml:3: the network cannot take the \(1, 8, 8\) images"),
        ("width: 4", "num_classes: 9", r"tiny\.yaml:3: the network has 9 classes, and 'digits' has 10"),
        ("name: digits", "name: digit", r"tiny\.yaml:4: .*Did you mean 'digits'"),
        ("name: digits", "name: digits, seed: 1", r"tiny\.yaml:4: the dataset's 'seed' has no effect without 'size'"),
        ("name: digits", "name: digits, size: 5000", r"tiny\.yaml:4: .*image 5000 of the 1297 in the train split"),
        ("name: digits", "name: digits, resize: 16", r"tiny\.yaml:4: .*resize"),
        ("recipe: tiny", "recipe: ../tiny", r"tiny\.yaml:1: .*recipe.* is '\.\./tiny'"),
        ("lr: 1e-2", "lr: high", r"tiny\.yaml:7: .*optimizer\.lr.* is 'high'"),
        (
            "{type: classifier, shift: 1}",
            "{type: adversarial, attack: {type: pgd, norm: L9, eps: 1}}",
            r"yaml:2: .*norm",
        ),
        ("{type: classifier, shift: 1}", "{type: adversarial, attack: {type: pgd, eps: 1}}", r"yaml:2: .*needs 'norm'"),
        ("{type: classifier, shift: 1}", "{type: diffusion, label_dropout: 2}", r"yaml:2: .*label_dropout is 2"),
        ("{type: classifier, shift: 1}", "{type: trades, norm: Linf, eps: 8}", r"yaml:2: .*eps is 8.*8/255"),
        ("{type: classifier, shift: 1}", "{type: jem, restart: 2}", r"yaml:2: .*restart is 2"),
        ("{type: classifier, shift: 1}", "{type: perceptual}", r"CNN does not show its activations"),
    ],
)
def test_a_mistake_is_told_with_its_line_before_anything_is_written(
    old: str, new: str, message: str, recipe: Path
) -> None:
    recipe.write_text(RECIPE.replace(old, new))
    with pytest.raises(UserError, match=message):
        quietly(recipe, "runs")
    assert not (recipe.parent / "runs").exists()


def test_a_changed_recipe_does_not_go_on_from_the_old_checkpoint(recipe: Path) -> None:
    quietly(recipe, "runs")
    recipe.write_text(RECIPE.replace("batch_size: 100", "batch_size: 90").replace("lr: 1e-2", "lr: 2e-2"))
    with pytest.raises(UserError, match=r"made with another batch_size and optimizer.*Remove .*checkpoint\.pt"):
        quietly(recipe, "runs")


@pytest.mark.parametrize("content", [b"", b"cut short", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_told(content: bytes, recipe: Path) -> None:
    checkpoint = recipe.parent / "runs" / "tiny" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        quietly(recipe, "runs")


def test_a_loss_that_is_not_finite_is_told(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("lr: 1e-2", "lr: 1e38"))
    with pytest.raises(UserError, match="the loss is nan at step"):
        quietly(recipe, "runs")
