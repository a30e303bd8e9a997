"""The traps of our dependencies do not reach a user who has imported harness. Each test has a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.process import compat

pytestmark = pytest.mark.slow


def run(code: str) -> str:
    """What a new process prints; its warnings are failures if they are ours to absorb."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "pkg_resources is deprecated" not in result.stderr
    return result.stdout.strip()


def test_importing_harness_loads_nothing_heavy() -> None:
    loaded = run("import sys, harness; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert not {"torch", "numpy", "pydantic", "pyautoattack", "robustbench", "torchattacks"} & set(loaded)


@pytest.mark.long
def test_robustbench_its_zoo_and_torchattacks_work_in_one_process_without_deprecations() -> None:
    printed = run(
        "import harness, robustbench, torchattacks\n"
        "from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel\n"
        "from robustbench.model_zoo.models import model_dicts\n"
        "assert ThreatModel.Linf in model_dicts[BenchmarkDataset.cifar_10]\n"
        "print(sum(len(models) for threats in model_dicts.values() for models in threats.values()))"
    )
    assert printed.splitlines()[-1] == "206"


@pytest.mark.long
@pytest.mark.parametrize("first", ["autoattack.state", "pyautoattack.state"])
def test_alias_gives_the_same_module_objects_in_either_order(first: str) -> None:
    run(
        f"import harness, {first}\n"
        "import autoattack, autoattack.state, pyautoattack, pyautoattack.state\n"
        "from autoattack import AutoAttack\n"
        "from autoattack.state import EvaluationState\n"
        "assert autoattack is pyautoattack and autoattack.state is pyautoattack.state\n"
        "assert AutoAttack is pyautoattack.AutoAttack\n"
        "assert pyautoattack.__spec__.name == 'pyautoattack' and autoattack.state.__spec__.name == 'pyautoattack.state'"
    )


def test_a_real_autoattack_is_preferred(tmp_path: Path) -> None:
    run(
        "import pathlib, sys, harness\n"
        f"root = pathlib.Path({str(tmp_path)!r}); (root / 'autoattack').mkdir()\n"
        "(root / 'autoattack' / '__init__.py').write_text('real = True')\n"
        "(root / 'autoattack' / 'state.py').write_text('real = True')\n"
        "sys.path.insert(0, str(root))\n"
        "import autoattack, autoattack.state\n"
        "assert autoattack.real and autoattack.state.real"
    )


def test_a_missing_submodule_is_a_plain_import_error() -> None:
    run(
        "import harness\n"
        "try:\n"
        "    import autoattack.nothing\n"
        "except ModuleNotFoundError as error:\n"
        "    assert error.name == 'autoattack.nothing'\n"
        "else:\n"
        "    raise SystemExit('imported')"
    )


def test_installing_twice_adds_one_finder() -> None:
    compat.install()
    compat.install()
    assert sum(isinstance(finder, compat.AliasFinder) for finder in sys.meta_path) == 1
