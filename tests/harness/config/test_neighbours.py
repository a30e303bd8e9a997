"""A user's file imports what lies beside it, whatever other folders hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.config.neighbours import module_of
from harness.config.registry import find
from harness.errors import UserError


def write(folder: Path, **files: str) -> Path:
    """Files by name, where `a__b` is a/b.py."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    "statement",
    [
        "import helper\nX = helper.X",
        "import helper as other\nX = other.X",
        "from helper import X",
        "from helper import *",
        "from .helper import X",
        "import pack.inner\nX = pack.inner.X",
        "from pack import inner\nX = inner.X",
        "from pack.inner import X",
        "from pack import relative\nX = relative.X",
        "from pack import absolute\nX = absolute.X",
        "from bare.inner import X",
        "from cycle import X",
    ],
)
def test_every_way_to_import_a_neighbour_finds_it(statement: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        mine=statement,
        helper="X = 3",
        pack__inner="X = 3",
        pack__relative="from .inner import X",
        pack__absolute="from helper import X",
        bare__inner="X = 3",
        cycle="X = 3\nimport mine",
    )
    (tmp_path / "pack/__init__.py").touch()
    assert module_of(tmp_path / "mine.py").X == 3
    assert not list(tmp_path.rglob("__pycache__"))


def test_two_folders_do_not_mix_even_in_late_imports(tmp_path: Path) -> None:
    mine = "from helper import X\n\ndef late():\n    import helper, other\n    return helper.X, other.X\n"
    paths, before = list(sys.path), set(sys.modules)
    first, second = (
        module_of(write(tmp_path / name, mine=mine, helper=f"X = '{name}'", other=f"X = '{name}'") / "mine.py")
        for name in ("a", "b")
    )
    assert (first.X, first.late(), second.X, second.late()) == ("a", ("a", "a"), "b", ("b", "b"))
    assert sys.path == paths
    assert {name for name in set(sys.modules) - before if not name.startswith("user_")} == set()


def test_files_of_one_folder_share_their_helper(tmp_path: Path) -> None:
    write(
        tmp_path, one="from helper import Thing", two="import helper\nThing = helper.Thing", helper="class Thing: ..."
    )
    assert module_of(tmp_path / "one.py").Thing is module_of(tmp_path / "two.py").Thing


def test_an_edited_helper_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, mine="from helper import X", helper="X = 1")
    old = module_of(tmp_path / "mine.py")
    assert module_of(tmp_path / "mine.py") is old
    write(tmp_path, helper="X = 2")
    assert module_of(tmp_path / "mine.py").X == 2 and old.X == 1


def test_a_helper_that_appears_after_a_failure_is_found(tmp_path: Path) -> None:
    write(tmp_path, mine="from helper import X")
    with pytest.raises(ModuleNotFoundError, match="No module named 'helper'"):
        module_of(tmp_path / "mine.py")
    write(tmp_path, helper="X = 1")
    assert module_of(tmp_path / "mine.py").X == 1


def test_neither_python_s_modules_nor_ours_can_be_replaced(tmp_path: Path) -> None:
    write(tmp_path, mine="import json, harness, defenses.dc", json="X", harness="X", defenses__dc="X")
    module = module_of(tmp_path / "mine.py")
    assert module.json is sys.modules["json"] and module.harness is sys.modules["harness"]
    assert module.defenses.dc is sys.modules["defenses.dc"]


def test_what_is_not_there_is_told_by_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, mine="import pack.absent", pack__inner="")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'pack\.absent'"):
        module_of(tmp_path / "mine.py")


def test_a_fault_in_a_helper_is_told_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, mine="from helper import X", helper="\n\nX = absent")
    with pytest.raises(UserError, match=r"helper\.py:3: NameError"):
        find("defenses", "./mine.py:Mine", tmp_path)
    write(tmp_path, helper="X = 1\ndef f(:\n")
    with pytest.raises(UserError, match=r"helper\.py:2: SyntaxError"):
        find("defenses", "./mine.py:Mine", tmp_path)
