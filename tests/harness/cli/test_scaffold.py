"""What `harness new` writes works as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.checks import check_class
from harness.cli.scaffold import write
from harness.errors import UserError


@pytest.mark.parametrize("kind", ["defense", "attack", "certificate"])
def test_the_skeleton_passes_every_check(kind: str, tmp_path: Path) -> None:
    path, cls = write(kind, "my_own", tmp_path)
    assert (path.name, cls) == ("my_own.py", "MyOwn")
    findings = check_class(f"{path.name}:{cls}", tmp_path)
    assert len(findings) > 3 and {v.status for v in findings} == {"passed"}


@pytest.mark.parametrize(
    ("kind", "argument"), [("defense", "strength=0.5"), ("attack", "eps=0.1"), ("certificate", "n=200")]
)
def test_the_skeleton_takes_arguments(kind: str, argument: str, tmp_path: Path) -> None:
    path, cls = write(kind, "other", tmp_path)
    assert "failed" not in {v.status for v in check_class(f"./{path.name}:{cls}", tmp_path, [argument])}


@pytest.mark.parametrize("kind", ["defense", "attack", "certificate"])
def test_the_skeleton_says_how_to_use_itself(kind: str, tmp_path: Path) -> None:
    text = write(kind, "mine", tmp_path)[0].read_text()
    assert "harness check mine.py:Mine" in text and "type: ./mine.py:Mine" in text
    assert "NAME" not in text and "CLASS" not in text


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        write("defense", "mine", tmp_path)
    assert (tmp_path / "mine.py").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "better"), [("My-Net", "my_net"), ("../x", "x"), ("2nd", "nd"), ("class", "my_attack"), ("", "my_attack")]
)
def test_names_that_no_module_can_have_are_refused_with_a_better_one(name: str, better: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"such as {better}\."):
        write("attack", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write("defense", "mine", tmp_path / "absent")
