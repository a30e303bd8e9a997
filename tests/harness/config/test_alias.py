"""An alias is the class it names, with arguments fixed, under the identity that stored results know it by."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from attacks.apgd import APGD
from attacks.parametric import Parametric
from attacks.pgd import PGD
from defenses.ddim import DDIM
from defenses.undefended import Undefended
from harness.config.alias import Alias, aliases, class_of_alias
from harness.config.registry import PACKAGES, built_in_only, entries, find
from harness.config.signature import parameters
from harness.quantity import Quantity

EPS = Quantity("8/255")
ALL = [(kind, name) for kind, package in PACKAGES.items() for name in aliases(package)]
ASCENT = ["eps", "steps", "step_size", "loss", "restarts", "random_start", "momentum", "schedule", "gradient", "eot"]
CLIMBS = ("elastic", "jpeg", "fog", "snow", "gabor", "hue", "saturation", "recoloradv")
NOT_FIXED = {
    **{("attacks", name): (Parametric, ASCENT) for name in CLIMBS},
    ("attacks", "adjoint"): (APGD, ["norm", "eps", "steps", "loss", "restarts", "random_start", "eot", "early_stop"]),
    ("attacks", "bpda"): (APGD, ["norm", "eps", "steps", "loss", "restarts", "random_start", "eot", "early_stop"]),
    ("attacks", "exact_gradient"): (
        APGD,
        ["norm", "eps", "steps", "loss", "restarts", "random_start", "eot", "early_stop"],
    ),
    ("attacks", "apgd_dlr_100"): (APGD, ["norm", "eps", "gradient", "eot"]),
    ("attacks", "pgd80_eot10"): (PGD, ["norm", "eps", "step_size", "loss", "gradient"]),
    ("defenses", "at"): (Undefended, ["weights", "network", "mean", "std"]),
    ("defenses", "one_step_denoising"): (
        DDIM,
        ["weights", "classifier", "network", "t_star", "rounds", "chunk", "graph_memory"],
    ),
    ("defenses", "hybvit"): (Undefended, ["weights", "network"]),
}


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_an_alias_is_its_type_with_the_arguments_that_are_not_fixed(kind: str, name: str) -> None:
    base, left = NOT_FIXED[kind, name]
    cls = find(kind, name)
    assert issubclass(cls, base) and list(parameters(cls)) == left
    own = parameters(base)
    assert all(taken.default == own[argument].default for argument, taken in parameters(cls).items())


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_an_alias_is_found_by_the_module_and_class_that_it_is_known_by_too(kind: str, name: str) -> None:
    cls = find(kind, name)
    with built_in_only():
        assert find(kind, f"{PACKAGES[kind]}.{name}:{cls.__name__}") is cls is find(kind, name)


def test_every_alias_is_listed_and_no_file_has_the_name_of_one() -> None:
    for kind in PACKAGES:
        names = [entry.name for entry in entries(kind)]
        assert len(names) == len(set(names)) and set(aliases(PACKAGES[kind])) <= set(names)


def test_fixed_arguments_are_the_ones_the_type_gets() -> None:
    attack = find("attacks", "apgd_dlr_100")("Linf", EPS, eot=2)
    assert (attack.steps, attack.loss, attack.restarts, attack.eot) == (100, "dlr", 5, 2)
    assert [find("attacks", name)("L2", EPS).gradient for name in ("adjoint", "bpda", "exact_gradient")] == [
        "adjoint",
        "bpda",
        "exact",
    ]
    with pytest.raises(TypeError, match="steps"):
        find("attacks", "apgd_dlr_100")("Linf", EPS, steps=3)


@pytest.mark.parametrize(
    ("norm", "given", "expected"), [("Linf", None, 1 / 255), ("Linf", "1/100", 0.01), ("L2", None, 2.5 * 8 / 255 / 80)]
)
def test_a_value_by_norm_holds_for_that_norm_and_only_where_none_is_given(
    norm: str, given: Any, expected: float
) -> None:
    attack = find("attacks", "pgd80_eot10")(norm, EPS, given and Quantity(given))
    assert attack.step_size == pytest.approx(expected, rel=1e-12)


def test_a_copy_of_an_alias_is_an_instance_of_it() -> None:
    attack = find("attacks", "bpda")("Linf", EPS)
    assert type(copy.copy(attack)) is type(copy.deepcopy(attack)) is type(attack)


def test_the_version_rises_with_that_of_the_type_and_with_each_change_of_the_alias() -> None:
    class Base:
        version = 4

        def __init__(self, steps: int = 1) -> None:
            self.steps = steps

    def alias(**changes: Any) -> Any:
        return class_of_alias(Alias("short", "base", "attacks.short.Short", "Short.", {"steps": 2}, **changes), Base)

    assert (alias().version, alias(changes=2).version, alias()().steps) == (4, 6, 2)
    assert (alias().__module__, alias().__qualname__) == ("attacks.short", "Short")
