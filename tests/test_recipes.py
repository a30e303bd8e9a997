"""The recipes that come with the package can be followed, and are those of the packaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from harness.datasets import by_name
from harness.training import train
from harness.training.recipe import read
from harness.weights import Checkpoint, build_network, packaged

RECIPES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "suites" / "train").glob("*.yaml"))}


def test_every_packaged_checkpoint_has_the_recipe_that_its_card_tells() -> None:
    for name in packaged():
        card, recipe = Checkpoint.find(name).card, read(RECIPES[name]).recipe
        assert card and (card.network, card.dataset) == (recipe.network, recipe.dataset.name)
        assert (card.recipe, card.steps, card.seed) == (recipe.recipe, recipe.steps, recipe.seed)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_builds_its_trainer_and_a_network_for_the_images_of_its_dataset(name: str) -> None:
    plan = read(RECIPES[name])
    known, spec = by_name.find(plan.recipe.dataset.name).known, plan.recipe.network
    assert plan.recipe.recipe == name and known
    plan.trainer.build()
    with torch.device("meta"):
        network = build_network(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) > 0
    sizes = {spec[key] for key in ("image_size", "img_size", "img_resolution") if key in spec}
    channels = {spec[key] for key in ("channels", "in_channels", "img_channels") if key in spec}
    classes = {spec[key] for key in ("num_classes", "label_dim") if spec.get(key)}
    assert sizes <= {known.shape[1]} and channels == {known.shape[0]} and classes <= {known.classes}


def test_the_network_of_the_paper_is_trained_at_its_full_size() -> None:
    from harness.weights.published import find

    spec = read(RECIPES["cifar10-ncsnpp"]).recipe.network
    with torch.device("meta"):
        network, published = build_network(spec), build_network(find("ncsnpp-cifar10-cond").network or {})
    shapes = [{name: tuple(value.shape) for name, value in net.state_dict().items()} for net in (network, published)]
    assert shapes[0] == shapes[1]


SMALL: dict[str, dict[str, Any]] = {
    "cifar10-ncsnpp": {"nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1},
    "cifar10-edm": {"model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1},
    "cifar10-at": {"depth": 10, "width": 1},
}
"""What makes the networks of the recipes of full size small; all else stays."""


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_recipe_of_full_size_is_followed_to_the_end_by_a_small_network(name: str, tmp_path: Path) -> None:
    content = yaml.safe_load(RECIPES[name].read_text())
    assert SMALL[name].keys() <= content["network"].keys() and content["precision"] == "bfloat16"
    content["network"] |= SMALL[name]
    content |= {"steps": 2, "batch_size": 4, "dataset": {"name": "npz", "path": "images.npz"}}
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(10), num_classes=10)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    weights = load_file(train(tmp_path / "small.yaml", runs=tmp_path))
    card = Checkpoint.find(str(tmp_path / name / f"{name}.safetensors")).card
    saved = torch.load(tmp_path / name / "checkpoint.pt")
    assert card is not None and card.steps == saved["step"] == 2 and card.num_classes == 10
    assert all(torch.equal(saved["average"][key], value) for key, value in weights.items())
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
    assert any(not torch.equal(saved["network"][key], value) for key, value in weights.items())
