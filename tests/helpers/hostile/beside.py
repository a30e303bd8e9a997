"""What may lie beside manifest and shards: diagnoses, shards of strangers, links."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from helpers.hostile.places import Spoil


def diagnosis(content: Any) -> Spoil:
    def spoil(root: Path) -> None:
        resolved = json.loads((root / "run.json").read_text())["resolved"]["defenses"]["plain"]
        finding = {"name": "c", "status": "pass", "message": "m", "source": "s", "data": {}, "seconds": 1.0}
        whole = {
            **{"harness": "0.1.0", "key": "k", "suite": "sound", "defense": "plain", "label": None, "attack": "noise"},
            **{"threat": "Linf 0.1", "surrogate": None, "images": 4, "settings": {"gradient": "exact"}},
            **{"resolved": resolved, "findings": [finding]},
        }
        (root / "diagnose").mkdir(exist_ok=True)
        made = content(whole, finding) if callable(content) else content
        (root / "diagnose/plain.json").write_text(made if isinstance(made, str) else json.dumps(made))

    return spoil


def with_data(data: Any) -> Spoil:
    return diagnosis(lambda whole, finding: {**whole, "findings": [{**finding, "data": data}]})


def strangers(root: Path) -> None:
    for place in range(5_000):
        (root / f"cells/plain/noise/{place * 7 + 100:05d}-{place * 7 + 103:05d}.parquet").write_bytes(b"")


BESIDE: dict[str, Spoil] = {
    "a diagnosis without settings": diagnosis(lambda whole, finding: {**whole, "settings": {}}),
    "a diagnosis of settings that are numbers": diagnosis(lambda whole, _: {**whole, "settings": {"gradient": 3}}),
    "a diagnosis that is a list": diagnosis("[]"),
    "a diagnosis nested deep": diagnosis("[" * 100_000),
    "10,000 findings": diagnosis(lambda whole, finding: {**whole, "findings": [finding] * 10_000}),
    "a cosine that is text": with_data({"cosine": "x"}),
    "a cosine without an interval": with_data({"cosine": {"1": 0.5}, "interval": {}, "images": 4, "undefined": 0}),
    "a cosine of no image": with_data({"cosine": {"1": 0.5}, "interval": {"1": [0, 1]}, "images": 0, "undefined": 4}),
    "a cosine at no number": with_data({"cosine": {"a": 0.5}, "interval": {"a": [0, 1]}, "images": 4, "undefined": 0}),
    "an interval of three": with_data(
        {"cosine": {"1": 0.5}, "interval": {"1": [0, 1, 2]}, "images": 4, "undefined": 0}
    ),
    "5,000 shards of strangers": strangers,
    "cells that are a link to the root": lambda root: (
        (shutil.rmtree(root / "cells"), (root / "cells").symlink_to("/"))
    ),
    "cells that are a file": lambda root: (shutil.rmtree(root / "cells"), (root / "cells").write_text("")),
}
