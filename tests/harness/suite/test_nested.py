"""Defenses inside defenses, attacks inside attacks."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import Tensor

from harness.config.component import Component
from harness.defense import Defense
from harness.errors import UserError
from harness.randomness import normal
from harness.suite import Cell, load_suite
from harness.suite.cell_key import component_hash
from harness.suite.checkpoints import items
from harness.suite.nested import InnerDefense, built
from harness.target import Target

MINE = """
from harness.attack import Attack, Cost
from harness.defense import Defense
from harness.suite.nested import InnerAttack, InnerDefense, built
from harness.quantity import Quantity
from harness.threat import Linf


class Behind(Defense):
    def __init__(self, classifier: InnerDefense, strength: float = 1.0) -> None:
        super().__init__()
        self.inner = built(classifier)

    def classify(self, x):
        return self.inner(x)


class All(Attack):
    def __init__(self, attacks: list[InnerAttack], eps: Quantity = Quantity("8/255")) -> None:
        super().__init__()
        self.threat, self.attacks = Linf(eps), [built(attack) for attack in attacks]

    def perturb(self, target, x, y):
        return x

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)
"""

SUITE = """
suite: nested
dataset: {name: digits, first: 2}
defenses:
  behind: {type: ./mine.py:Behind, classifier: {type: undefended, weights: digits-cnn}}
attacks:
  all: {type: ./mine.py:All, eps: 0.1, attacks: [{type: pgd, norm: Linf, steps: 3}, {type: clean}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(dedent(MINE))
    return tmp_path


def cell(folder: Path, text: str = SUITE) -> Cell:
    (folder / "suite.yaml").write_text(text)
    return load_suite(folder / "suite.yaml").cells[0]


def changed(folder: Path, old: str, new: str) -> Cell:
    assert old in SUITE
    return cell(folder, SUITE.replace(old, new))


def test_the_inner_defense_answers(folder: Path) -> None:
    whole = cell(folder).defense.build()
    alone = whole.inner
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(whole(x), alone(x))
    assert type(alone).__name__ == "Undefended"


def test_inner_attacks_have_the_outer_budget_unless_they_say_otherwise(folder: Path) -> None:
    first, _ = cell(folder).attack.build().attacks
    assert float(first.threat.eps) == 0.1
    first, _ = changed(folder, "steps: 3", "steps: 3, eps: 0.2").attack.build().attacks
    assert float(first.threat.eps) == 0.2


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("weights: digits-cnn", "weights: digits-at-l2", "defense"),
        ("steps: 3", "steps: 4", "attack"),
        ("{type: clean}", "{type: pgd, norm: Linf}", "attack"),
    ],
)
def test_a_change_inside_is_another_claim(folder: Path, old: str, new: str, part: str) -> None:
    before, after = (getattr(found, part) for found in (cell(folder), changed(folder, old, new)))
    assert component_hash(before) != component_hash(after)


def test_the_same_weights_elsewhere_are_the_same_claim(folder: Path) -> None:
    packaged = cell(folder)
    inner: Component = packaged.defense.arguments["classifier"]
    checkpoint = inner.arguments["weights"]
    for suffix in (".safetensors", ".yaml"):
        (folder / f"copy{suffix}").write_bytes(checkpoint.path.with_suffix(suffix).read_bytes())
    moved = changed(folder, "weights: digits-cnn", "weights: ./copy.safetensors")
    assert component_hash(packaged.defense) == component_hash(moved.defense)


def test_the_record_shows_what_is_inside(folder: Path) -> None:
    found = cell(folder)
    inner = found.defense.resolved()["classifier"]
    assert inner["type"] == "undefended" and len(inner["arguments"]["weights"]["sha256"]) == 64
    assert [each["type"] for each in found.attack.resolved()["attacks"]] == ["pgd", "clean"]


def test_a_mistake_inside_is_told_with_its_line(folder: Path) -> None:
    with pytest.raises(UserError, match="no argument 'wights'") as refused:
        changed(folder, "weights: digits-cnn", "wights: digits-cnn")
    assert refused.value.where is not None and refused.value.where.line == 5
    with pytest.raises(UserError, match="an entry of its own") as refused:
        changed(folder, "{type: undefended, weights: digits-cnn}", "digits-cnn")
    assert refused.value.where is not None and refused.value.where.line == 5


def test_checkpoints_inside_are_listed(folder: Path) -> None:
    cell(folder)
    assert [found.ref for found in items(folder / "suite.yaml")] == ["digits-cnn"]


class Noisy(Defense):
    stochastic = True

    def classify(self, x: Tensor) -> Tensor:
        return normal(self.seeds_for(x), (3,))


class Pair(Defense):
    stochastic = True

    def __init__(self, first: InnerDefense, second: InnerDefense) -> None:
        super().__init__()
        self.first, self.second = built(first), built(second)

    def classify(self, x: Tensor) -> Tensor:
        return torch.stack([normal(self.seeds_for(x), (3,)), self.first(x), self.second(x)], 1).flatten(1)


def test_inner_defenses_draw_noise_of_their_own_from_the_same_seeds() -> None:
    pair, x, seeds = Pair(Noisy(), Noisy()), torch.rand(4, 1, 2, 2), torch.arange(4)
    with pair.drawing(seeds):
        drawn = pair(x).unflatten(1, (3, 3))
        again = pair(x).unflatten(1, (3, 3))
    with pair.drawing(seeds.flip(0)):
        flipped = pair(x).unflatten(1, (3, 3)).flip(0)
    assert torch.equal(drawn, again) and torch.equal(drawn, flipped)
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 12
    assert pair.first._call.seeds is None


def test_another_view_counts_with_the_first_and_draws_afresh() -> None:
    x = torch.rand(2, 1, 2, 2)
    target = Target(Pair(Noisy(), Noisy()), x, torch.arange(2))
    rows = torch.arange(2)
    first = target.sample(x, rows)
    second = target.with_view(gradient="bpda", eot=3).sample(x, rows)
    assert second.shape[0] == 3 and not (second == first).any()
    assert target.forwards.tolist() == [4, 4]
