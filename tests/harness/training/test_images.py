"""The images of a training are those that a suite of the same keys would take."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from defenses.training.classifier import Classifier
from harness import datasets
from harness.cli.train_progress import Display
from harness.weights import Checkpoint
from helpers.trained import RECIPE, quietly


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
