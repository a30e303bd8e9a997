"""Each mistake in a recipe, and each checkpoint that does not fit, is told before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from helpers.trained import RECIPE, quietly


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
