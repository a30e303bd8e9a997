"""The recipes that come with the package can be followed, and are those of the packaged weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.datasets import by_name
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
