"""AutoAttack on defenses without a gradient: Square alone is an upper bound too, and the number says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.autoattack import AutoAttack
from attacks.common.one_draw import NoGradient
from harness.attack import Adversarial
from harness.defense import Defense
from harness.evaluation.run import run
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.reporting import summarise
from harness.results.load import read_run as results
from harness.suite import load_suite
from helpers.linear import target_of

SHAPE = (1, 6, 6)
X = uniform(torch.arange(6) + 9, SHAPE)


class Plain(Defense):
    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(normal(torch.arange(10), (36,)))  # asks for a gradient of its own

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T


class Numpy(Plain):
    def purify(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().round(2))


class Detached(Plain):
    def purify(self, x: Tensor) -> Tensor:
        return (x.detach() * 100).round() / 100


class NoGrad(Plain):
    @torch.no_grad()
    def purify(self, x: Tensor) -> Tensor:
        return (x * 100).round() / 100


class Cut(Plain):
    """What it returns asks for a gradient, though not for that of the images."""

    def purify(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            own = ((x.detach() * 100).round() / 100).requires_grad_()
        return own


class Labels(Plain):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).detach()


def attack(*stages: str, norm: str = "Linf", **options: Any) -> AutoAttack:
    options = {"apgd_steps": 3, "square_queries": 40, **options}
    eps = Quantity({"Linf": "0.1", "L2": "0.6", "L1": "4"}[norm])
    return AutoAttack(norm, eps, version="custom", attacks=list(stages), **options)  # type: ignore[arg-type]


def found(attack: AutoAttack, defense: Defense) -> Adversarial:
    y = defense(X).argmax(1).detach()
    images = attack.perturb(target_of(attack, defense, X), X, y)
    assert isinstance(images, Adversarial)
    return images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defense", "norm"),
    [*((defense, "Linf") for defense in (Numpy, Detached, NoGrad, Cut, Labels)), (Cut, "L2"), (Cut, "L1")],
)
def test_square_runs_alone_as_if_nothing_else_were_listed_and_a_flag_says_so(defense: type[Defense], norm: str) -> None:
    several = found(attack("apgd-ce", "apgd-t", "fab-t", "square", norm=norm), defense())
    alone = found(attack("square", norm=norm), defense())
    assert torch.equal(several.images, alone.images) and not torch.equal(several.images, X)
    (flag,) = (flag for flag in several.flags if "could not run" in flag)
    assert flag.startswith("in doubt: autoattack: apgd-ce, apgd-t, fab-t could not run: no gradient leads")
    assert flag.endswith("; only square ran")
    assert not any("could not run" in flag for flag in alone.flags)


@pytest.mark.parametrize("stage", ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t"])
@pytest.mark.parametrize("defense", [Numpy, Cut])
def test_without_square_there_is_nothing_to_run(stage: str, defense: type[Defense]) -> None:
    with pytest.raises(NoGradient, match="no gradient leads"):
        found(attack(stage), defense())


@pytest.mark.parametrize("defense", [Numpy, Detached, NoGrad, Cut])
def test_bpda_has_a_gradient_and_runs_all(defense: type[Defense]) -> None:
    everything = found(attack("apgd-ce", "square", gradient="bpda"), defense())
    assert not everything.flags and not torch.equal(everything.images, X)


def test_what_fails_for_another_reason_is_no_missing_gradient() -> None:
    class Broken(Plain):
        def classify(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                raise RuntimeError("element 0 of tensors does not require grad")
            return super().classify(x)

    with pytest.raises(RuntimeError, match="element 0") as error:
        found(attack("apgd-ce", "square"), Broken())
    assert not isinstance(error.value, NoGradient)


MINE = """
import torch

from harness import datasets
from harness.defense import Defense


class Rounds(Defense):
    num_classes = 10

    def __init__(self):
        super().__init__()
        train = datasets.load("digits", "train")
        self.register_buffer("means", torch.stack([train.images[train.labels == k].mean(0) for k in range(10)]))

    def purify(self, x):
        return torch.from_numpy((x.numpy() * 64).round() / 64)

    def classify(self, x):
        return -(x[:, None] - self.means).square().flatten(2).sum(2)
"""


def test_the_number_is_an_upper_bound_with_a_footnote(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "suite.yaml").write_text(
        "suite: bound\ndataset: {name: digits, first: 8}\ndefenses:\n  rounds: {type: './mine.py:Rounds'}\n"
        "defaults: {attacks: {type: autoattack, norm: Linf, version: custom, apgd_steps: 2, square_queries: 100}}\n"
        "attacks:\n  both: {attacks: [apgd-ce, square], eps: 0.3}\n  none: {attacks: [apgd-ce], eps: 0.1}\n"
    )
    plan = load_suite(tmp_path / "suite.yaml")
    done = run(plan, tmp_path / "out", torch.device("cpu"))
    (row,) = summarise(results(tmp_path / "out")).rows
    clean, both, none = row.entries[:3]
    assert both.errors == 0 and both.estimate and clean.estimate and both.estimate.value < clean.estimate.value
    assert any("apgd-ce could not run" in remark and "only square ran" in remark for remark in both.remarks)
    assert none.errors == round(8 * clean.estimate.value)
    assert [failure.name for failure in done.failures] == ["rounds/none"]
