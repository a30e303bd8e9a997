"""Plain and adversarially trained classifiers: normalisation inside, and the packaged weights at their card's word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from defenses.training.diffusion import Diffusion
from defenses.undefended import Undefended
from harness import datasets
from harness.config.registry import find
from harness.errors import UserError
from harness.weights import Checkpoint, build_network

CLASSIFIERS = {
    "digits-cnn": Undefended,
    "digits-at-linf": find("defenses", "at"),
    "digits-at-l2": find("defenses", "at"),
}
SPEC = {"type": "cnn", "channels": 3, "width": 4, "num_classes": 5}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "net.safetensors"
    save_file(build_network(SPEC).state_dict(), path)
    return str(path)


def test_normalisation_is_inside_and_per_channel(file: str) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 2.0, 1.0]
    x = torch.rand(4, 3, 8, 8)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    defense = Undefended(Checkpoint.find(file), SPEC, mean, std)
    assert torch.allclose(defense(x), Undefended(Checkpoint.find(file), SPEC)(by_hand), atol=1e-6)


def test_nothing_is_claimed_without_a_card(file: str) -> None:
    defense = Undefended(Checkpoint.find(file), SPEC)
    assert (defense.num_classes, defense.expected_accuracy, defense.expected_dataset) == (None, None, None)


def test_a_gradient_reaches_the_image_but_not_the_weights(file: str) -> None:
    defense = Undefended(Checkpoint.find(file), SPEC)
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    defense(x).sum().backward()
    assert x.grad is not None
    assert not any(parameter.requires_grad for parameter in defense.parameters())


@pytest.mark.parametrize("std", [[1.0, 0.0, 1.0], [1.0, -1.0, 1.0]])
def test_a_standard_deviation_that_is_none_is_told(std: list[float], file: str) -> None:
    with pytest.raises(UserError, match="std is"):
        Undefended(Checkpoint.find(file), SPEC, None, std)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_packaged_classifiers_reach_their_cards_accuracy(name: str) -> None:
    defense, data = CLASSIFIERS[name](Checkpoint.find(name)), datasets.load("digits", "test")
    accuracy = (defense(data.images).argmax(1) == data.labels).float().mean().item()
    assert accuracy == pytest.approx(defense.expected_accuracy, abs=1 / len(data))
    assert (defense.num_classes, defense.expected_dataset) == (10, "digits")
    assert accuracy >= 0.9


@pytest.mark.slow
def test_the_packaged_diffusion_network_classifies_digits() -> None:
    data = datasets.load("digits", "test").select(range(60))
    with torch.no_grad():
        logits = Diffusion(timesteps=10).logits(Checkpoint.find("digits-ncsnpp").network(), data.images, 10)
    assert (logits.argmax(1) == data.labels).float().mean() >= 0.95
