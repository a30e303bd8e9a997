"""Examples in docstrings do what they show, and every public object has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import harness

ROOT = Path(__file__).parents[1]

FINISHED = ROOT / "tests" / "golden" / "results_before_layout" / "run"

FILES = sorted(
    path
    for package in ("harness", "attacks", "defenses")
    for path in (ROOT / package).rglob("*.py")
    if ">>>" in path.read_text()
)


def module_of(path: Path) -> Any:
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_a_module_do_what_they_show(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in examples start from the root of the repository; `directory` holds results, `folder` is an empty one."""
    monkeypatch.chdir(ROOT)
    module = module_of(path)
    names = {**vars(module), "harness": harness, "directory": str(FINISHED), "folder": str(tmp_path)}
    tests = [test for test in doctest.DocTestFinder().find(module, globs=names) if test.examples]
    assert tests
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        assert runner.run(test).failed == 0, test.name


def test_an_example_that_is_wrong_is_found() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None).failed == 1


@pytest.mark.parametrize("name", harness.__all__)
def test_every_public_object_has_an_example(name: str) -> None:
    """An alias of a type, such as `InnerDefense`, cannot hold a docstring: its module does, and names it."""
    found = getattr(harness, name)
    text = inspect.getdoc(found) if inspect.isclass(found) or inspect.isfunction(found) else None
    if text is None:
        text = str(inspect.getdoc(importlib.import_module("harness.suite.nested")))
        assert name in text
    assert ">>>" in text
