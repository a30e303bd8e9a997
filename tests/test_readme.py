"""What the README tells a reader to type works as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.scaffold import write
from harness.config.registry import entries
from harness.suite import load_suite

pytestmark = pytest.mark.slow

README = Path(__file__).parent.parent / "README.md"


def section(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README.read_text(), re.DOTALL)
    assert found
    return found[1]


def shell(commands: str, folder: Path) -> str:
    """What the commands of a section print, in a folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=os.environ | {"PATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_adding_a_defense_and_then_an_attack_works_as_told_in_an_empty_folder(tmp_path: Path) -> None:
    first, second = (
        re.findall(r"```sh\n(.*?)```", section(name), re.DOTALL) for name in ("add-your-defense", "add-your-attack")
    )
    assert len(first) == len(second) == 1
    shown = shell(first[0], tmp_path)
    assert "mine/linf: 16/16 images" in shown
    assert "Clean" in shown and "mine" in shown
    shown = shell(second[0], tmp_path)
    assert "mine/climb: 16/16 images" in shown and "mine/linf: 16/16" not in shown
    assert "Computed 1 shard" in shown


def test_the_suite_of_the_curve_is_a_sweep_over_eps(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", section("curve"), re.DOTALL)
    (tmp_path / "curve.yaml").write_text(example)
    (sweep,) = load_suite(tmp_path / "curve.yaml").sweeps
    assert (sweep.kind, sweep.paths, len(sweep.variants)) == ("attacks", ("eps",), 5)


def test_every_network_type_that_is_named_exists() -> None:
    named = set(re.findall(r"network: \{type: (\w+)", README.read_text()))
    assert named and named <= {entry.name for entry in entries("networks")}


def test_the_suite_that_is_explained_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(suite: example.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    write("defense", "mine", tmp_path)
    plan = load_suite(tmp_path / "example.yaml")
    assert [f"{cell.defense.name}/{cell.attack.name}" for cell in plan.cells] == [
        f"{defense}/{attack}" for defense in ("plain", "rdc", "mine") for attack in ("linf", "l2")
    ]
    assert {cell.attack.type for cell in plan.cells if cell.defense.name == "rdc"} == {"pgd"}


def test_every_path_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_every_suite_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"suites/[\w/.-]+\.yaml", README.read_text()))
    assert named
    for path in named:
        assert (README.parent / path).is_file(), path
