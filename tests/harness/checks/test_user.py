"""`check_class` finds and builds what a user names, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.checks import check_class
from harness.errors import UserError

DEFENSE = """
from harness.defense import Defense

class Sums(Defense):
    def __init__(self, scale: float, offset: int = 0) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    def classify(self, x):
        return self.scale * x.flatten(1)[:, 20:30] + self.offset

class NotADefense:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sums.py").write_text(DEFENSE)
    return tmp_path


def test_a_class_in_a_file_is_built_with_its_arguments_and_checked(folder: Path) -> None:
    statuses = {v.name: v.status for v in check_class("./sums.py:Sums", folder, ["scale=1e-1", "offset=2"])}
    assert statuses["runs"] == "passed" and "failed" not in statuses.values()


def test_a_built_in_name_is_checked() -> None:
    assert "failed" not in {v.status for v in check_class("undefended", Path(), ["weights=digits-cnn"])}


def test_an_attack_is_recognised_and_tried() -> None:
    findings = check_class("pgd", Path(), ["norm=Linf", "eps=8/255", "steps=5"])
    assert {v.name: v.status for v in findings}["within the budget"] == "passed"


def test_missing_arguments_are_named_with_the_command_that_gives_them(folder: Path) -> None:
    with pytest.raises(UserError, match=r"needs scale.*harness check sums.py:Sums scale=VALUE"):
        check_class("sums.py:Sums", folder)


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("sums.py:Sums", ["scale"], "not of the form key=value"),
        ("sums.py:Sums", ["scale=big"], "'scale' of defense 'Sums' is 'big'"),
        ("sums.py:Sums", ["scale=1", "offest=2"], "Did you mean 'offset'"),
        ("sums.py:Sums", ["scale=[1"], "scale"),
        ("sums.py:Nothing", [], "Nothing"),
        ("sums.py:NotADefense", [], "neither a defense"),
        ("absent.py:Sums", [], "absent.py"),
        ("undefendd", [], "neither a defense"),
        ("pgd", ["norm=Linf", "eps=8"], "8/255"),
    ],
)
def test_mistakes_are_user_errors(folder: Path, spec: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_class(spec, folder, arguments)
    assert message in str(caught.value)


def test_an_absent_dataset_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no dataset"):
        check_class("undefended", Path(), ["weights=digits-cnn"], dataset="digit")


def test_a_normalisation_that_the_network_was_not_trained_with_fails_against_its_card() -> None:
    findings = check_class("undefended", Path(), ["weights=digits-cnn", "mean=[0.5]", "std=[0.5]"])
    told = {v.name: v for v in findings}["accuracy"]
    assert told.status == "failed"
    assert "of 256 clean images, where its card says 99.4%: is normalisation applied twice" in told.message
