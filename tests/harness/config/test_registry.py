"""Names find classes, wrong names find an explanation, and listing never waits for torch."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from defenses.networks.ncsnpp import NCSNpp
from defenses.networks.ncsnpp_config import NCSNppConfig
from harness.config import registry
from harness.config.registry import PACKAGES, entries, find
from harness.config.signature import parameters
from harness.defense import Defense
from harness.errors import UserError
from helpers.modules import source

MINE = source("mine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def refusal(kind: str, name: str, base: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find(kind, name, base)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "cls"),
    [
        ("defenses", "dc", "DC"),
        ("defenses", "rdc", "RDC"),
        ("defenses", "pat", "PAT"),
        ("defenses", "undefended", "Undefended"),
        ("attacks", "pgd", "PGD"),
        ("attacks", "autoattack", "AutoAttack"),
        ("networks", "ncsnpp", "NCSNpp"),
        ("networks", "cnn", "CNN"),
    ],
)
def test_a_built_in_is_the_class_spelt_like_its_file(kind: str, name: str, cls: str) -> None:
    found = find(kind, name)
    assert (found.__name__, found.__module__) == (cls, f"{PACKAGES[kind]}.{name}")


@pytest.mark.parametrize("kind", PACKAGES)
def test_every_entry_can_be_found_and_is_listed_with_the_arguments_it_takes(kind: str) -> None:
    found = entries(kind)
    assert found and [entry.name for entry in found] == sorted({entry.name for entry in found})
    for entry in found:
        cls = find(kind, entry.name)
        assert cls.__name__ == entry.cls
        assert entry.summary, f"{entry.name} does not say what it is"
        taken = parameters(NCSNppConfig if cls is NCSNpp else cls)  # which takes the fields of its configuration
        assert [p.name for p in entry.parameters] == list(taken)
        assert [p.name for p in entry.parameters if p.default is None] == [
            name for name, p in taken.items() if p.default is p.empty
        ]


def test_listing_imports_neither_torch_nor_what_it_lists() -> None:
    code = (
        "import json, sys; from harness.config.registry import PACKAGES, entries;"
        "names = [entry.name for kind in PACKAGES for entry in entries(kind)];"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('torch', 'pydantic', 'defenses', 'attacks', 'numpy')];"
        "print(json.dumps([names, heavy]))"
    )
    names, heavy = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert {"dc", "pgd", "cnn"} <= set(names)
    assert heavy == []


def test_inherited_constructors_are_listed(folder: Path) -> None:
    undefended, at = (next(e for e in entries("defenses") if e.name == name) for name in ("undefended", "at"))
    assert at.parameters == undefended.parameters != ()


def test_the_fields_of_a_configuration_are_listed_with_their_meanings() -> None:
    ncsnpp = {p.name: p for e in entries("networks") if e.name == "ncsnpp" for p in e.parameters}
    assert "config" not in ncsnpp
    assert ncsnpp["nf"].default == "128" and ncsnpp["nf"].meaning == "features of the first level, a multiple of 4."


def test_quantities_are_listed_as_a_suite_writes_them() -> None:
    stadv = next(entry for entry in entries("attacks") if entry.name == "stadv")
    assert next(p.default for p in stadv.parameters if p.name == "bound") == "0.05"


def test_arguments_are_listed_as_a_suite_names_them() -> None:
    transfer = next(entry for entry in entries("attacks") if entry.name == "transfer")
    assert [p.name for p in transfer.parameters] == ["from", "attack", "norm", "eps"]


@pytest.mark.parametrize("name", ["networks", "diffusion", "_hidden", "__init__", "../attacks/pgd", "", "dc.py.x"])
def test_packages_private_files_and_paths_are_not_entries(name: str) -> None:
    assert "there is no defense" in refusal("defenses", name)


@pytest.mark.parametrize("name", ["layers", "preprocessing"])
def test_a_module_without_a_network_of_its_name_is_not_an_entry(name: str) -> None:
    assert name not in [entry.name for entry in entries("networks")]
    assert f"there is no network '{name}'" in refusal("networks", name)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    assert refusal("defenses", "rcd").endswith("Did you mean 'rdc'?")
    assert "autoattack" in refusal("attacks", "qqqq")


def test_a_kind_is_not_another() -> None:
    assert "no attack 'dc'" in refusal("attacks", "dc")
    assert "not a subclass of harness.attack.Attack" in refusal("attacks", "defenses.dc:DC")
    assert "not a subclass of torch.nn" in refusal("networks", "attacks.pgd:PGD")


def test_a_class_of_a_package_is_found_by_module_and_name() -> None:
    assert find("defenses", "defenses.dc:DC") is find("defenses", "dc")
    assert find("networks", "torch.nn:Linear").__name__ == "Linear"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere.at_all:Class", "No module named 'nowhere'"),
        ("defenses.rdc:RDCC", "Did you mean 'RDC'?"),
        ("defenses.dc:", "neither package.module:Class nor ./file.py:Class"),
        ("a..b:C", "neither"),
        (":", "neither"),
        ("./x:C", "neither"),
        ("os:getcwd", "not a subclass"),
        ("harness.attack:Target", "not a subclass"),
    ],
)
def test_modules_and_classes_that_are_not_there_are_refused(name: str, told: str) -> None:
    assert told in refusal("defenses", name)


def test_an_attack_that_leaves_methods_open_is_refused_with_their_names() -> None:
    assert "does not define cost, perturb" in refusal("attacks", "harness.attack:Attack")


def test_a_users_file_is_found_from_the_given_folder_and_run_once(folder: Path) -> None:
    cls = find("defenses", "./mine.py:Mine", folder)
    assert issubclass(cls, Defense) and cls.__name__ == "Mine"
    assert find("defenses", "mine.py:Mine", folder) is cls
    assert find("defenses", f"{folder}/mine.py:Mine") is cls
    assert inspect.getfile(cls) == str((folder / "mine.py").resolve())
    assert "class Mine" in inspect.getsource(cls)
    assert not (folder / "__pycache__").exists()


def test_two_files_of_one_name_live_side_by_side(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "mine.py").write_text(MINE.replace("My own.", "Another."))
    first, second = find("defenses", "./mine.py:Mine", folder), find("defenses", "./mine.py:Mine", other)
    assert (first.__doc__, second.__doc__) == ("My own.", "Another.")
    assert first is find("defenses", "./mine.py:Mine", folder)


def test_an_edited_file_is_read_again(folder: Path) -> None:
    find("defenses", "./mine.py:Mine", folder)
    (folder / "mine.py").write_text(MINE.replace("My own.", "Edited."))
    assert find("defenses", "./mine.py:Mine", folder).__doc__ == "Edited."


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import torch\nx = undefined\n", "mine.py:2: NameError: name 'undefined' is not defined"),
        ("\n\nclass Mine(:\n", "mine.py:3: SyntaxError: invalid syntax"),
        ("import nowhere_at_all\n", "mine.py:1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("import json\n\njson.loads('{')\n", "mine.py:3: JSONDecodeError"),
        ("raise SystemExit(3)\n", "mine.py:1: SystemExit: 3"),
        ("class Mine: pass\n", "not a subclass of harness.defense.Defense"),
        ("class Mein: pass\n", "Did you mean 'Mein'?"),
        ("Mine = 3\n", "not a subclass"),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_a_broken_users_file_is_refused_with_its_own_error_and_line(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    modules = set(sys.modules)
    message = refusal("defenses", "./mine.py:Mine", tmp_path)
    assert message.startswith("'./mine.py:Mine' ") and told in message
    left = [name for name in set(sys.modules) - modules if name.startswith("user_")]
    assert bool(left) == ("cannot be imported" not in message)


def test_a_file_without_a_class_or_without_itself_is_refused(folder: Path) -> None:
    assert "needs a class after a colon. Valid names: Mine, Settings" in refusal("defenses", "./mine.py", folder)
    assert "No such file" in refusal("defenses", "./yours.py:Mine", folder)
    assert "cannot be read" in refusal("defenses", "./a\0.py:Mine", folder)


def test_entry_points_of_installed_packages_are_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("elsewhere", "defenses.rdc:RDC", "harness.defenses")
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints([point]).select(group=group))
    assert find("defenses", "elsewhere") is find("defenses", "rdc")
    listed = {entry.name: entry for entry in entries("defenses")}
    assert listed["elsewhere"].parameters == listed["rdc"].parameters
    assert "elsewhere" not in {entry.name for entry in entries("attacks")}


def test_the_registry_has_no_list_of_names() -> None:
    tree = ast.parse(inspect.getsource(registry))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not strings & {entry.name for kind in PACKAGES for entry in entries(kind)}


def test_what_comes_with_the_package_is_no_foreign_code_by_its_module_either() -> None:
    with registry.built_in_only():
        assert registry.find("defenses", "defenses.canaries.jpeg:JPEG").__name__ == "JPEG"
        for name in ("./defenses.py:JPEG", "defenses/../mine.py:Mine", "json:JSONDecoder", "defensesx.y:Z"):
            with pytest.raises(registry.Foreign):
                registry.find("defenses", name)
