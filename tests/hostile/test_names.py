"""Names that can be no file's: too long, with a NUL, of a user that there is not. They are refused, in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.evaluation.run import run
from harness.suite import load_suite

LONG = "f" * 300
NAMES = [
    *(LONG, f"./{LONG}", "a/" * 3000, "a." * 2000 + "b", f"{LONG}:f", f"x.py:{LONG}", f"./{LONG}.py:C", f"{LONG}.pt"),
    *(
        "\0",
        "a\0b.pt",
        "./f\0.py:C",
        f"~{LONG}",
        "~nobody/x.pt",
        f"https://h.invalid/{LONG}",
        f"file://{LONG}",
        "\u00e9" * 200 + ".npz",
    ),
]
PLACES = [
    *(
        "dataset",
        "dataset.name",
        "dataset.path",
        "dataset.classes",
        "extends",
        "report.reference",
        "attacks.b",
        "attacks.b.type",
    ),
    *(
        "attacks.b.norm",
        "defenses.a",
        "defenses.a.type",
        "defenses.a.weights",
        "defenses.a.weights.path",
        "defenses.a.module",
    ),
]
SUITE = {
    "suite": "names",
    "dataset": {"name": "digits", "split": "test", "size": 2},
    "defenses": {"a": {"weights": "digits-cnn"}},
    "attacks": {"b": {"type": "noise", "norm": "Linf", "eps": 0.1}},
}


def suite(place: str, name: str) -> dict[str, Any]:
    made = section = copy.deepcopy(SUITE)
    *folders, last = place.split(".")
    for folder in folders:
        section[folder] = section = section[folder] if isinstance(section.get(folder), dict) else {}
    section[last] = name
    if place == "defenses.a.module":
        section.update(type="module")
    return made


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name[:12]!a}")
def test_such_a_name_is_refused(tmp_path: Path, place: str, name: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps(suite(place, name)))
    with pytest.raises(UserError):
        run(load_suite(path), tmp_path / "out")
