"""What `make` installs and what a wheel holds."""

from __future__ import annotations

import configparser
import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import harness

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "defenses", "attacks", "suites")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, unpacked."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(built)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (file,) = built.glob("adversarial_harness-*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(built)
    return built


@pytest.mark.long
def test_a_wheel_holds_every_module_suite_card_weight_and_template(wheel: Path) -> None:
    files = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    wanted = {file for file in files if "__pycache__" not in file.parts and not file.name.startswith(".")}
    asset, template = Path("harness/reporting/page/script.js"), Path("harness/cli/templates/defense.py.txt")
    assert {Path("suites/quickstart.yaml"), asset, template} <= wanted
    assert [str(file) for file in sorted(wanted) if not (wheel / file).is_file()] == []


@pytest.mark.long
def test_a_wheel_brings_no_top_level_names_but_ours(wheel: Path) -> None:
    (info,) = wheel.glob("*.dist-info")
    assert set((info / "top_level.txt").read_text().split()) == set(PACKAGES)
    assert (info / "licenses" / "LICENSE").is_file() or (info / "LICENSE").is_file()


@pytest.fixture(scope="module")
def listed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What `harness list` of the wheel says in an empty folder: names by kind."""
    code = "from harness.cli import main; import harness; print(harness.__file__); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list", "--json"],
        cwd=tmp_path_factory.mktemp("empty"),
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=True,
    )
    place, found = done.stdout.split("\n", 1)
    assert place.startswith(str(wheel))
    return {kind: {entry["name"] for entry in entries} for kind, entries in json.loads(found).items()}


@pytest.mark.long
def test_an_installed_wheel_lists_its_defenses_and_attacks_in_any_folder(listed: dict[str, set[str]]) -> None:
    assert {"undefended", "rdc"} <= listed["defenses"] and {"pgd", "autoattack"} <= listed["attacks"]


@pytest.mark.long
def test_an_installed_wheel_lists_its_suites_in_any_folder(listed: dict[str, set[str]]) -> None:
    assert any(name.endswith("quickstart.yaml") for name in listed["suites"])


def test_the_command_and_the_version_are_installed() -> None:
    assert metadata.version("adversarial-harness") == harness.__version__
    (script,) = metadata.entry_points(group="console_scripts", name="harness")
    assert script.value == "harness.__main__:main"


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (version,) = (spec.version for spec in pin.specifier if spec.operator == "==")
            pins.setdefault(_canonical(pin.name), []).append(version)
    for requirement in map(Requirement, metadata.requires("adversarial-harness") or []):
        if requirement.marker and not any(extra in str(requirement.marker) for extra in ('"test"', '"dev"')):
            continue
        assert _canonical(requirement.name) in pins, f"{requirement.name} is not pinned"
        for version in pins[_canonical(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement} does not allow the pinned {version}"


def test_torchattacks_is_no_dependency() -> None:
    """Its wheel would overwrite robustbench; only the Makefile knows the order that is safe."""
    assert not any("torchattacks" in text for text in metadata.requires("adversarial-harness") or [])


def test_pytest_imports_tests_by_path() -> None:
    """robustbench's wheel installs a package `tests`, which must not stand in for ours."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "--import-mode=importlib" in config["tool:pytest"]["addopts"]
    packages = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("__init__.py")}
    assert packages == {"helpers"}


PYTHON_STUB = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
  *version_info*) exit {too_old} ;;
  --version) echo "Python 3.9.1" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"-m pip"*--editable*) test ! -e "{fail}" ;;
esac
"""


class Sandbox:
    """The Makefile in a folder of its own, with an interpreter that only writes down what it is asked."""

    def __init__(self, folder: Path, *, too_old: bool = False) -> None:
        self.folder, self.log, self.fail = folder, folder / "log", folder / "fail"
        for file in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / file, folder)
        stub = folder / "python-stub"
        stub.write_text(PYTHON_STUB.format(log=self.log, fail=self.fail, too_old=int(too_old)))
        stub.chmod(0o755)

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        command = ["make", target, "PYTHON=./python-stub"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True)

    def asked(self, *words: str) -> list[int]:
        """Numbers of the calls that hold all these words."""
        return [i for i, line in enumerate(self.log.read_text().splitlines()) if all(word in line for word in words)]


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
def test_an_old_python_is_refused_by_name_before_anything_is_made(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, too_old=True)
    done = sandbox.make("test")
    assert done.returncode != 0
    assert "Python 3.9.1" in done.stderr and "3.10 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_torchattacks_goes_in_alone_and_before_robustbench(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    assert sandbox.make("test").returncode == 0
    (torchattacks,) = sandbox.asked("pip", "--no-deps", "torchattacks")
    (ours,) = sandbox.asked("pip", "--editable", ".[test]", "-c constraints.txt")
    (check,) = sandbox.asked("robustbench_whole")
    (tests,) = sandbox.asked("-m pytest")
    assert torchattacks < ours < check < tests


@needs_make
def test_an_installation_happens_once_and_an_interrupted_one_again(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.fail.touch()
    assert sandbox.make("test").returncode != 0
    assert not sandbox.asked("-m pytest")
    sandbox.fail.unlink()
    assert sandbox.make("test").returncode == 0 and sandbox.asked("--editable")
    assert sandbox.make("test").returncode == 0 and not sandbox.asked("pip")
    os.utime(tmp_path / "constraints.txt")
    assert sandbox.make("test").returncode == 0 and sandbox.asked("--editable")


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == harness.__version__
    assert {"cff-version", "message", "title", "authors", "date-released"} <= citation.keys()


def test_the_release_looks_for_files_that_there_are_and_ci_builds_the_site() -> None:
    wanted = runpy.run_path(str(ROOT / "scripts" / "release.py"))["WANTED"]
    assert len(wanted) > 5 and all((ROOT / name).is_file() for name in wanted)
    assert "make docs" in (ROOT / ".ci" / "run").read_text()


def test_a_release_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    """Beside no repository, and without the program that lists its files."""
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "release.py", tmp_path / "scripts")
    alone = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "PATH": os.environ["PATH"]}
    for environment, said in ((alone, "`git ls-files -z` ended with status 128"), ({"PATH": ""}, "git: No such file")):
        command = [sys.executable, str(script), "--only-build"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"The wheel cannot be built: {said}" in done.stderr


def test_an_interpreter_that_there_is_not_is_a_result_of_the_release_and_no_traceback(tmp_path: Path) -> None:
    tried = runpy.run_path(str(ROOT / "scripts" / "release.py"))["tried"]
    assert tried(tmp_path / "none.whl", str(tmp_path / "python4"), None) == (
        f"fails: {tmp_path / 'python4'}: No such file or directory"
    )
