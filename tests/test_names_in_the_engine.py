"""The engine knows no defense and no attack by its name: each says itself what is special about it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from harness.config import registry

HARNESS = Path(__file__).parents[1] / "harness"

VIEWS = {"bpda", "adjoint"}
"""Views of a defense, after which two attacks are called."""

DISTRIBUTIONS = {"robustbench", "torchattacks", "autoattack"}
"""Python packages, after which a defense and two attacks are called."""

OTHER_MEANINGS: dict[str, set[str]] = {
    "gradients.py": VIEWS,
    "process/compat.py": DISTRIBUTIONS,
    "results/environment.py": DISTRIBUTIONS,
    "cli/doctor.py": DISTRIBUTIONS,
    "reporting/tables/leaderboard.py": {"autoattack"},  # what two leaderboards rank by
    "weights/published.py": {"robustbench"},  # the format of a checkpoint, and the folder that the package keeps it in
    "dry_run/fake_checkpoints.py": {"robustbench"},  # likewise
    "diagnosis/attack_checks.py": {"transfer"},  # the name of a check, which stored diagnoses hold
    "threats/corruptions.py": {"fog"},  # the name of a corruption, in the field as in results
    "suite/cell_key.py": {"module"},  # a key of what a result's identity is made of
}
"""Words that are names of defenses or attacks and, in these files, mean something else."""

CLEAN = "clean"
"""Clean images, clean accuracy: a word of the field long before it was the name of an attack that does nothing."""


@cache
def names() -> set[str]:
    return {entry.name for kind in ("defenses", "attacks") for entry in registry.entries(kind)}


def constants(code: str) -> Iterator[str]:
    """The string constants of a module that are no docstrings."""
    tree = ast.parse(code)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_constants_are_seen_and_docstrings_are_not() -> None:
    assert list(constants('"""pgd"""\nX = "rdc"\n"""dc"""\ndef f(x):\n    "jem"\n    return x == "sbgc"\n')) == [
        "rdc",
        "sbgc",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(HARNESS.rglob("*.py")), ids=lambda path: path.relative_to(HARNESS).as_posix())
def test_no_string_of_the_engine_is_the_name_of_a_defense_or_an_attack(path: Path) -> None:
    allowed = OTHER_MEANINGS.get(path.relative_to(HARNESS).as_posix(), set())
    assert (names() & set(constants(path.read_text()))) - allowed - {CLEAN} == set()


def test_every_exception_is_still_needed() -> None:
    for name, words in OTHER_MEANINGS.items():
        assert words & set(constants((HARNESS / name).read_text())), name
