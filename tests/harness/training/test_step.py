"""A step of a training: its gradient in parts, its mirrored images, and want of memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import UserError
from harness.training import Trainer, loop, train
from harness.training.processes import Processes
from harness.training.recipe import read
from harness.training.state import State
from harness.training.step import mirrored, step

RECIPE = """\
recipe: tiny
trainer: {type: classifier}
network: {type: cnn, width: 4, dropout: 0.0}
dataset: {name: digits}
steps: 5
batch_size: 12
optimizer: {lr: 1e-2}
card: {summary: a test, licence: MIT, source: this test}
"""
ONE = Processes(0, 1, torch.device("cpu"))


class Records(Trainer):
    """Fits the mean of the images to a weight, and takes down what it was given and drew."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.drawn: list[float] = []

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.images.append(x)
        self.drawn.append(torch.rand(1).item())
        return F.mse_loss(network(x.flatten(1)).squeeze(1), y.float())


class Full(Trainer):
    """A network that the memory is too small for."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise self.error


def recipe(folder: Path, **options: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE + "".join(f"{key}: {value}\n" for key, value in options.items()))
    return path


def gradient(trainer: Trainer, x: Tensor, y: Tensor, folder: Path, **options: Any) -> tuple[float, list[Tensor]]:
    """Loss and gradient of a step of a linear network, as its optimizer gets it."""
    torch.manual_seed(0)
    network, taken = nn.Linear(x[0].numel(), 1), []
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}], zero_grad=network.zero_grad)
    optimizer.step = lambda: taken.extend(value.grad.clone() for value in network.parameters())
    state = State(network, optimizer, None, trainer)  # type: ignore[arg-type]
    return step(read(recipe(folder, **options)).recipe, trainer, state, x, y, ONE), taken


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    return torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(1)), torch.arange(12)


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_the_gradient_in_parts_is_that_of_the_batch(parts: int, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    whole, trainer = gradient(Records(), *images, tmp_path), Records()
    loss, taken = gradient(trainer, *images, tmp_path, accumulate=parts)
    assert loss == pytest.approx(whole[0], rel=1e-6)
    for value, expected in zip(taken, whole[1], strict=True):
        torch.testing.assert_close(value, expected)
    assert torch.equal(torch.cat(trainer.images), images[0]) and {len(x) for x in trainer.images} == {12 // parts}
    assert len(set(trainer.drawn)) == parts  # each part draws its own noise


def test_a_training_in_parts_ends_with_the_same_weights_up_to_rounding(tmp_path: Path) -> None:
    whole = load_file(train(recipe(tmp_path), runs=tmp_path / "whole"))
    parts = load_file(train(recipe(tmp_path, accumulate=4), runs=tmp_path / "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4)


def test_parts_that_are_not_equal_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny\.yaml:9: the 12 images .* cannot be divided into 5 equal parts"):
        train(recipe(tmp_path, accumulate=5), runs=tmp_path)
    plan = read(recipe(tmp_path, accumulate=4))
    loop._refuse_indivisible(plan, Records(), Processes(0, 3, torch.device("cpu")))
    with pytest.raises(UserError, match="the 6 images of a process's batch cannot be divided into 4 equal parts"):
        loop._refuse_indivisible(plan, Records(), Processes(0, 2, torch.device("cpu")))


def test_an_image_is_mirrored_or_not_with_equal_chances() -> None:
    torch.manual_seed(0)
    x = torch.rand(1000, 2, 3, 5)
    turned = mirrored(x)
    same = (turned == x).flatten(1).all(1)
    other = torch.from_numpy(x.numpy()[..., ::-1].copy())
    assert torch.equal(turned[~same], other[~same])
    assert 430 < int(same.sum()) < 570


def test_images_are_mirrored_where_the_recipe_says_so(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    for flip in (False, True):
        trainer = Records()
        gradient(trainer, *images, tmp_path, flip=str(flip).lower())
        assert torch.equal(trainer.images[0], images[0]) != flip


MEMORY = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 bytes"), MemoryError()]


@pytest.mark.parametrize("error", MEMORY)
@pytest.mark.parametrize(("now", "remedy"), [(1, "accumulate: 2"), (2, "accumulate: 3"), (6, "accumulate: 12")])
def test_want_of_memory_is_told_with_the_next_number_of_parts(
    error: Exception, now: int, remedy: str, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"gradient of {12 // now} images") as told:
        gradient(Full(error), *images, tmp_path, accumulate=now)
    assert remedy in str(told.value) and f"(now {now})" in str(told.value)


def test_want_of_memory_for_one_image_has_no_more_parts_and_other_failures_stay(
    images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="One image at a time is too much too"):
        gradient(Full(MemoryError()), *images, tmp_path, accumulate=12)
    with pytest.raises(RuntimeError, match="shapes differ"):
        gradient(Full(RuntimeError("shapes differ")), *images, tmp_path)


@pytest.mark.parametrize(("seconds", "saves"), [(0.0, 20), (0.5, 20), (3.0, 5)])
def test_checkpoints_take_a_fiftieth_of_the_time_at_most(
    seconds: float, saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 steps of a second: a checkpoint each 30 seconds, or after 50 times as long as writing the last one took."""
    now, written = [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def saved(state: State, path: Path, recipe: Any) -> None:
        now[0] += seconds
        written.append(state.step)

    def stepped(recipe: Any, trainer: Any, state: State, *given: Any) -> float:
        now[0] += 1
        state.step += 1
        return 0.0

    monkeypatch.setattr(State, "save", saved)
    monkeypatch.setattr(loop, "step", stepped)
    path = recipe(tmp_path)
    path.write_text(RECIPE.replace("steps: 5", "steps: 600"))
    train(path, runs=tmp_path)
    assert len(written) == saves and written[-1] == 600
