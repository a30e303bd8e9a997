"""What `import harness` hands on, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import harness

PUBLIC = {
    *("Attack", "Defense", "Target", "Adversarial", "Cost"),
    *("Linf", "L2", "L1", "L0", "Flow", "Quantity"),
    *("Checkpoint", "InnerDefense", "InnerAttack", "Callback", "UserError", "Results"),
    *("evaluate", "load_suite", "run", "load_results", "summarise", "report", "compare", "verify", "diagnose"),
    "train",
}


def test_the_public_surface_is_exactly_this() -> None:
    assert len(harness.__all__) == len(set(harness.__all__))
    assert set(harness.__all__) == PUBLIC
    assert set(dir(harness)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(harness, name) is not None


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="evalute"):
        harness.evalute  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_and_its_errors_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, harness; harness.UserError, harness.Callback; print({'torch', 'pandas'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
