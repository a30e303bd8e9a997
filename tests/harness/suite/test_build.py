"""A defense is evaluated as `build_defense` gives it, whichever command asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import datasets
from harness.errors import UserError
from harness.suite import load_suite
from harness.suite.build import build_defense, refuse_unsuitable
from harness.suite.cell_key import Identities
from harness.suite.plan import Cell

CODE = """
import torch
from torch import nn

from harness.attack import Attack, Cost
from harness.defense import Defense
from harness.quantity import Quantity
from harness.threat import Linf


class Classifier(Defense):
    num_classes = 10

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def classify(self, x):
        return self.net(x)


class Random(Classifier):
    def __init__(self):
        super().__init__()
        self.net[1].weight.data = torch.randn(10, 64, generator=torch.Generator().manual_seed(self.next()))

    calls = 0

    @classmethod
    def next(cls):
        cls.calls += 1
        return cls.calls


class Seven(Classifier):
    num_classes = 7


class Energetic(Attack):
    needs = ("energy",)

    def __init__(self, eps: Quantity = Quantity("1/4")):
        super().__init__()
        self.threat = Linf(eps)

    def unsuitable_images(self, shape):
        return "images are too small" if shape[1] < 8 else None

    def perturb(self, target, x, y):
        return x

    def cost(self, num_classes):
        return Cost(0, 0)
"""


def cell(folder: Path, name: str) -> Cell:
    (folder / "code.py").write_text(CODE)
    path = folder / "suite.yaml"
    path.write_text(
        "suite: tried\ndataset: {name: digits, first: 2}\n"
        f'defenses: {{d: {{type: "./code.py:{name}"}}}}\nattacks: {{a: {{type: "./code.py:Energetic"}}}}\n'
    )
    [found] = load_suite(path).cells
    return found


def test_a_built_defense_is_in_evaluation_mode_and_none_of_its_parameters_requires_a_gradient(tmp_path: Path) -> None:
    component = cell(tmp_path, "Classifier").defense
    assert component.build().training
    defense = build_defense(component)
    assert not any(module.training for module in defense.modules())
    parameters = list(defense.parameters())
    assert len(parameters) == 2 and not any(parameter.requires_grad for parameter in parameters)


def test_a_defense_of_other_classes_is_refused_where_the_dataset_is_known(tmp_path: Path) -> None:
    component, digits = cell(tmp_path, "Seven").defense, datasets.load("digits", "test")
    assert build_defense(component).num_classes == 7
    with pytest.raises(UserError, match="defense 'd' has 7 classes, dataset 'digits' has 10") as refused:
        build_defense(component, digits)
    assert str(refused.value).startswith(f"{tmp_path / 'suite.yaml'}:3")
    assert build_defense(component, replace(digits, num_classes=7)).num_classes == 7


def test_a_defense_that_is_another_each_time_is_refused_where_its_identity_is_known(tmp_path: Path) -> None:
    component = cell(tmp_path, "Random").defense
    with pytest.raises(UserError, match="defense 'd' differs each time it is built: "):
        build_defense(component, identity=Identities().of(component))
    steady = cell(tmp_path, "Seven").defense
    assert build_defense(steady, identity=None)


def test_an_attack_that_does_not_suit_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    pair = cell(tmp_path, "Classifier")
    defense, attack = build_defense(pair.defense), pair.attack.build()
    with pytest.raises(UserError, match="attack 'a' does not fit defense 'd': it needs energy"):
        refuse_unsuitable(pair, attack, defense)
    attack.needs = ()
    refuse_unsuitable(pair, attack, defense)
    refuse_unsuitable(pair, attack, defense, (1, 8, 8))
    with pytest.raises(UserError, match="images are too small"):
        refuse_unsuitable(pair, attack, defense, (1, 4, 4))
