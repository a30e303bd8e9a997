"""Each mistake in a recipe, and each checkpoint that does not fit, is told before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.training import loop
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


TRAINER = """
from harness.training import Trainer

class T(Trainer):
"""
LOSS = "    def loss(self, network, x, y):\n        return "
FINE = LOSS + "network(x).mean()\n"
METHODS = {
    LOSS
    + "network(x)": r"loss of the trainer T \(t\.py:5, in loss\) is a tensor of shape \(100, 10\)\. Return a scalar",
    LOSS + "network(x).mean().detach()": r"is a tensor of shape \(\), which depends on no parameter of the network",
    LOSS + "None": r"the loss of the trainer T \(.*\) is None\. Return a scalar",
    LOSS + "3.0": "is of type float",
    FINE
    + "    def logits(self, network, x, k):\n        return None": r"logits of the trainer T .* are None for 2 images",
    FINE + "    def logits(self, network, x, k):\n        return network(x)[:1]": (
        r"are a tensor of shape \(1, 10\) for 2 images of 10 classes. They must be a tensor of shape \(2, 10\)"
    ),
    FINE
    + "    def logits(self, network, x, k):\n        return network(x, k)": r"tiny\.yaml:3: the network cannot take",
    FINE + "    def state(self):\n        return {}": r"tiny\.yaml:2: the trainer T keeps a state .*Define restore",
}


@pytest.mark.parametrize("methods", METHODS)
def test_a_trainer_that_breaks_its_contract_is_told(
    methods: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    Path("t.py").write_text(TRAINER + methods + "\n")
    recipe.write_text(RECIPE.replace("{type: classifier, shift: 1}", "{type: './t.py:T'}"))
    with pytest.raises(UserError, match=METHODS[methods]):
        quietly(recipe, "runs")


def test_logits_that_are_wrong_for_the_last_batch_alone_are_no_accuracy(recipe: Path) -> None:
    logits = "    def logits(self, network, x, k):\n        return network(x)[: 60]"
    (recipe.parent / "t.py").write_text(TRAINER + FINE + logits + "\n")
    recipe.write_text(RECIPE.replace("{type: classifier, shift: 1}", "{type: './t.py:T'}"))
    with pytest.raises(UserError, match=r"are a tensor of shape \(60, 10\) for 100 images"):
        quietly(recipe, "runs")


def test_a_trainer_for_other_networks_is_told(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("{type: classifier, shift: 1}", "{type: diffusion}"))
    told = r"tiny\.yaml:3: .* TypeError: CNN\.forward.* trainer 'diffusion' is for such networks"
    with pytest.raises(UserError, match=told):
        quietly(recipe, "runs")


@pytest.mark.parametrize("place", ["runs", "runs/tiny/checkpoint.pt/x", "out", "out/tiny.safetensors/x"])
def test_a_place_that_cannot_be_written_is_told_before_the_first_step(
    place: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = recipe.parent / place
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("")
    monkeypatch.delattr(loop, "step")
    with pytest.raises(UserError, match=r"cannot write .*(checkpoint\.pt|tiny\.safetensors) \((Not|Is) a directory\)"):
        quietly(recipe, "runs", out=recipe.parent / "out")
    assert blocked.read_text() == ""
