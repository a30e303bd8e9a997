"""Diagnoses in a results directory: what was written is read again, also by the words of the version before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.checks import Finding
from harness.errors import UserError
from harness.results.diagnosis import SCHEMA_VERSION, Diagnosis, path_of, read, read_all, write

BEFORE = {"pass": "passed", "suspect": "warned", "not asked": "skipped", "error": "failed"}

VERSION_1 = {
    **{"schema_version": 1, "harness": "0.1.0", "key": "k", "suite": "s", "defense": "dc", "label": None},
    **{"attack": "linf", "threat": "Linf 8/255", "surrogate": None, "images": 4, "settings": {"gradient": "exact"}},
    **{"resolved": {"type": "dc", "arguments": {}}, "finished": True},
    "findings": [
        {"name": f"check {status}", "status": status, "message": "m", "source": "s", "data": {"a": 1}, "seconds": 0.5}
        for status in BEFORE
    ],
}
"""A document as the version before wrote it."""


def stored(folder: Path, content: object) -> Path:
    path = path_of(folder, "dc")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_diagnosis_of_the_version_before_is_read_in_the_words_of_this_one(tmp_path: Path) -> None:
    found = read(stored(tmp_path, VERSION_1))
    assert found is not None and found.finished
    assert {finding.name: finding.status for finding in found.findings} == {
        f"check {before}": today for before, today in BEFORE.items()
    }
    assert all((f.source, f.data, f.seconds, f.remedy) == ("s", {"a": 1}, 0.5, None) for f in found.findings)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    findings = (Finding("a", "warned", "look closer", source="s", data={"n": [1]}, seconds=2.0),)
    made = Diagnosis.model_validate({**VERSION_1, "schema_version": SCHEMA_VERSION, "findings": findings})
    write(tmp_path, made)
    assert read_all(tmp_path) == [made]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": SCHEMA_VERSION + 1},
        {"findings": [{"name": "a", "status": "fine", "message": "m"}]},
        {"findings": ["passed"]},
        {"findings": [{"name": "a", "status": ["pass"], "message": "m"}]},
    ],
)
def test_another_version_or_another_status_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a diagnosis that this harness can read"):
        read(stored(tmp_path, {**VERSION_1, **change}))
