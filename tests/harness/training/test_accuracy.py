"""The measurement of a trained network's accuracy: stopped and continued, it is the one that was not stopped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from harness import datasets
from harness.callback import SILENT, Callback
from harness.cli import train_progress
from harness.datasets.dataset import Dataset
from harness.randomness import derive, fenced
from harness.training.accuracy import accuracy
from harness.training.trainer import Trainer


class Guess(Trainer):
    """Logits with noise from torch's generator, as a diffusion classifier's have; it keeps the images it was asked."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        self.asked.append(x)
        logits: Tensor = network(x.flatten(1)) + torch.randn(len(x), num_classes)
        return logits


class StopAfter(Callback):
    """Ctrl-C once so many images are measured."""

    def __init__(self, images: int) -> None:
        self.images = images

    def measured(self, images: int, of: int) -> None:
        if images == self.images:
            raise KeyboardInterrupt


@pytest.fixture
def digits() -> Dataset:
    return datasets.load("digits", "test")


@pytest.fixture
def network(digits: Dataset) -> nn.Module:
    with fenced(0):
        return nn.Linear(digits.images[0].numel(), 10)


def measure(
    trainer: Trainer, network: nn.Module, data: Dataset, file: Path, callback: Callback = SILENT, weights: str = "w"
) -> float:
    return accuracy(trainer, network, data, 10, 3, weights=weights, file=file, callback=callback)


def test_it_is_the_fraction_of_correct_images(digits: Dataset, network: nn.Module, tmp_path: Path) -> None:
    logits = []
    for start in range(0, len(digits), 100):
        with torch.no_grad(), fenced(derive(3, "evaluation", start)):
            x = digits.images[start : start + 100]
            logits.append(network(x.flatten(1)) + torch.randn(len(x), 10))
    expected = (torch.cat(logits).argmax(1) == digits.labels).double().mean().item()
    assert measure(Guess(), network, digits, tmp_path / "count") == expected


def test_stopped_and_continued_it_asks_for_no_image_twice(digits: Dataset, network: nn.Module, tmp_path: Path) -> None:
    whole, trainer = measure(Guess(), network, digits, tmp_path / "whole"), Guess()
    for images in (100, 300):
        with pytest.raises(KeyboardInterrupt):
            measure(trainer, network, digits, tmp_path / "count", StopAfter(images))
    assert measure(trainer, network, digits, tmp_path / "count") == whole
    assert torch.equal(torch.cat(trainer.asked), digits.images)
    assert measure(Trainerless(), network, digits, tmp_path / "count") == whole


class Trainerless(Guess):
    """One that must not be asked."""

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        raise AssertionError("every image was counted before")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        json.dumps({"weights": "others", "images": 100, "correct": 100}).encode(),
        json.dumps({"weights": "w", "images": 9999, "correct": 9}).encode(),
        json.dumps({"weights": "w", "images": 100, "correct": 101}).encode(),
        json.dumps({"weights": "w", "images": "100", "correct": 1}).encode(),
    ],
)
def test_a_file_of_other_weights_or_with_any_other_content_counts_for_nothing(
    digits: Dataset, network: nn.Module, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "count").write_bytes(content)
    trainer = Guess()
    assert measure(trainer, network, digits, tmp_path / "count") == measure(Guess(), network, digits, tmp_path / "new")
    assert len(torch.cat(trainer.asked)) == len(digits)


def test_the_display_says_how_far_it_is(
    digits: Dataset, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_progress, "LINE_EVERY", -1.0)
    screen = io.StringIO()
    measure(Guess(), network, digits, tmp_path / "count", train_progress.Display(Console(file=screen)))
    lines = screen.getvalue().splitlines()
    assert len(lines) == len(digits) // 100 - 1
    assert lines[0].endswith("measuring the clean accuracy, 100/500 test images")
