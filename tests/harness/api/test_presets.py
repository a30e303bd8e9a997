"""The presets are entries that bind, and the usual budgets are those of the papers that the file names."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from attacks.adaptive import Adaptive
from harness.api.attacks import Budget, attacks_of
from harness.api.data import GivenData
from harness.api.presets import presets
from harness.attack import Attack
from harness.errors import Place, UserError
from harness.quantity import Quantity

PLACE = Place(Path("call.py"), 1)


def budget(norm: str | None = None, eps: str | None = "8/255") -> Budget:
    return Budget(norm, None if eps is None else Quantity(eps), GivenData({}, "cifar10"), PLACE)


def built(attacks: Any, norm: str | None = None, *, stochastic: bool) -> dict[str, Attack]:
    found = attacks_of(attacks, budget(norm), {stochastic})
    return {name: kinds[stochastic].build() for name, kinds in found.items() if kinds[stochastic]}  # type: ignore


@pytest.mark.parametrize(
    ("preset", "norm", "stochastic"), list(itertools.product(presets().presets, ("Linf", "L2", "L1"), (False, True)))
)
def test_every_preset_is_a_set_of_attacks_within_the_budget_of_the_call(
    preset: str, norm: str, stochastic: bool
) -> None:
    found = built(preset, norm, stochastic=stochastic)
    assert found
    assert {str(attack.threat) for attack in found.values()} == {f"{norm} 8/255"}


@pytest.mark.parametrize("preset", presets().presets)
def test_attacks_on_stochastic_defenses_average_over_draws(preset: str) -> None:
    """All but `adaptive`, whose momentum averages."""
    found = built(preset, stochastic=True)
    assert all(attack.eot > 1 for name, attack in found.items() if name != "adaptive")


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_preset_adaptive_has_the_attack_of_that_name(stochastic: bool) -> None:
    assert isinstance(built("adaptive", stochastic=stochastic)["adaptive"], Adaptive)


def test_there_are_the_presets_that_the_documentation_names() -> None:
    assert set(presets().presets) == {"quick", "standard", "adaptive"}


@pytest.mark.parametrize(
    ("dataset", "shape", "usual"),
    [
        ("cifar10", (3, 32, 32), {"Linf": "8/255", "L2": "0.5", "L1": "12"}),
        ("digits", (1, 8, 8), {"Linf": "0.2", "L2": "1.0"}),
        ("npz", (3, 64, 64), {"Linf": "8/255", "L2": "0.5", "L1": "12"}),
        ("npz", (3, 224, 224), {"Linf": "4/255"}),
        ("npz", (1, 28, 28), {}),
    ],
)
def test_usual_budgets(dataset: str, shape: tuple[int, ...], usual: dict[str, str]) -> None:
    assert {norm: str(eps) for norm, eps in presets().usual(dataset, shape).items()} == usual


def test_attacks_of_one_name_are_told_apart_and_those_with_a_name_keep_it() -> None:
    entry = {"type": "pgd", "steps": 2}
    assert list(built([entry, "pgd", entry], stochastic=False)) == ["pgd", "pgd-2", "pgd-3"]
    assert list(built({"naive": entry, "strong": "standard"}, stochastic=True)) == [
        *("naive", "strong-apgd", "strong-bpda")
    ]


def test_an_attack_that_no_defense_of_the_call_meets_is_left_out() -> None:
    assert set(attacks_of("adaptive", budget(None), {True})) == {"adaptive"}
    assert set(attacks_of("adaptive", budget(None), {True, False})) == {"adaptive", "autoattack", "apgd", "bpda"}


@pytest.mark.parametrize("name", ["elastic", "hue", "sigma_zero"])
def test_an_attack_whose_budget_has_another_unit_asks_for_it_in_its_entry(name: str) -> None:
    with pytest.raises(UserError, match=rf"the budget of attack '{name}' has a unit of its own.*in its entry.*eps"):
        attacks_of(name, budget("Linf", "8/255"), {False})
    entry = {"type": name, "eps": 1}
    assert attacks_of(entry, budget(None, None), {False})[name][False]


def test_an_entry_keeps_the_budget_that_it_says() -> None:
    found = attacks_of({"type": "pgd", "norm": "L2", "eps": "1/2"}, budget(None, None), {False})
    attack = found["pgd"][False]
    assert attack and str(attack.build().threat) == "L2 1/2"
