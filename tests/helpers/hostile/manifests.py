"""Manifests with other content than a run would write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helpers.hostile.files import endless, pipe
from helpers.hostile.places import Spoil


def manifest(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(root: Path) -> None:
        path = root / "run.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def text(make: Callable[[str], str | bytes]) -> Spoil:
    """What is written in the place of the manifest's text."""

    def spoil(root: Path) -> None:
        path = root / "run.json"
        made = make(path.read_text())
        path.write_bytes(made.encode() if isinstance(made, str) else made)

    return spoil


def put(value: Any, *keys: str | int) -> Spoil:
    """A value in the manifest, at some depth."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return manifest(change)


def everywhere(count: int) -> Spoil:
    """So many images wherever the manifest says how many there are."""

    def change(content: dict[str, Any]) -> None:
        content["dataset"]["count"] = count
        for cell in content["cells"]:
            cell["count"] = count

    return manifest(change)


def many_cells(content: dict[str, Any]) -> None:
    content["cells"] = [{**content["cells"][0], "attack": f"a{place}"} for place in range(20_000)]


def wide_table(content: dict[str, Any]) -> None:
    for kind in ("defenses", "attacks"):
        [facts, *_] = content[kind].values()
        content[kind] |= {f"x{place}": facts for place in range(3_000)}


def renamed(defense: str) -> Spoil:
    """Another name of the defense, wherever it is named, with its records in the place that the name leads to."""

    def spoil(root: Path) -> None:
        path = root / "run.json"
        content = json.loads(path.read_text())
        content["defenses"] = {defense: content["defenses"]["plain"]}
        content["resolved"]["defenses"] = {defense: content["resolved"]["defenses"]["plain"]}
        for cell in content["cells"]:
            cell["defense"] = defense
        path.write_text(json.dumps(content))
        if "\0" not in defense:
            target = root / "cells" / defense
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(root / "cells/plain", target, dirs_exist_ok=True)

    return spoil


def dataset_at(place: Callable[[Path], object], name: str = "npz") -> Spoil:
    """A manifest whose dataset is a file that lies beside it."""

    def spoil(root: Path) -> None:
        file = root / "data.npz"
        file.touch()
        place(file)
        for part in ("dataset", "resolved"):
            put(name, *(["resolved", "dataset"] if part == "resolved" else [part]), "name")(root)
        put(str(file), "resolved", "dataset", "path")(root)

    return spoil


def swelling(path: Path) -> None:
    """200 megabytes of black images in 200 kilobytes."""
    np.savez_compressed(path, images=np.zeros((50_000, 64, 64, 1), dtype=np.uint8), labels=np.zeros(50_000, dtype=int))


def weights_at(place: Callable[[Path], object]) -> Spoil:
    def spoil(root: Path) -> None:
        file = root / "weights.pt"
        file.touch()
        place(file)
        put({"name": str(file), "sha256": "0" * 64}, "resolved", "defenses", "plain", "arguments", "weights")(root)

    return spoil


MANIFESTS: dict[str, Spoil] = {
    "not JSON": text(lambda whole: whole[: len(whole) // 2]),
    "not UTF-8": text(lambda whole: whole.encode("utf-16")),
    "nested 200,000 deep": text(lambda whole: '{"schema_version": 2, "x": ' + "[" * 200_000),
    "nested 100 deep": put(json.loads("[" * 100 + "]" * 100), "resolved", "dataset", "x"),
    "five million empty lists": text(lambda whole: '{"schema_version": 2, "x": [' + "[]," * 5_000_000 + "[]]}"),
    "eight million numbers": text(lambda whole: '{"schema_version": 2, "x": [' + "1," * 8_000_000 + "1]}"),
    "300,000 keys, one twice": text(
        lambda whole: '{"schema_version": 2, ' + ", ".join(f'"{key % 299_999}": 1' for key in range(300_000)) + "}"
    ),
    "a key twice": text(lambda whole: whole.replace('"suite"', '"suite": "other", "suite"', 1)),
    "a number of 100,000 digits": text(lambda whole: whole.replace('"seed": 0', '"seed": ' + "9" * 100_000)),
    "a seed of 70 bits": text(lambda whole: whole.replace('"seed": 0', f'"seed": {2**70}')),
    "NaN": text(lambda whole: whole.replace('"seed": 0', '"seed": NaN')),
    "infinity by an exponent": put(float("inf"), "defenses", "plain", "expected_accuracy"),
    "half a surrogate pair": text(
        lambda whole: whole.replace('"suite": "sound"', '"title": "\\ud800", "suite": "sound"', 1)
    ),
    "a list": text(lambda whole: "[]"),
    "a version that is a list": put([2] * 100_000, "schema_version"),
    "a billion images": everywhere(1_000_000_000),
    "a million images": everywhere(1_000_000),
    "no image": everywhere(0),
    "fewer images than none": everywhere(-1),
    "counts as text": put("4", "cells", 0, "count"),
    "a count that is true": put(True, "dataset", "count"),
    "fewer images in one pairing": put(2, "cells", 0, "count"),
    "shards of one image more": put(3, "cells", 0, "shard"),
    "shards of none": put(0, "cells", 0, "shard"),
    "a billion votes": put(1_000_000_000, "protocol", "votes"),
    "an image twice": put([0, 0, 1, 2], "dataset", "indices"),
    "an image far away": put([0, 1, 2, 2**31 - 1], "dataset", "indices"),
    "indices as text": put("0123", "dataset", "indices"),
    "the defense ../../x": renamed("../../x"),
    "the defense /tmp/x": renamed("/tmp/harness-hostile"),
    "the defense ..": renamed(".."),
    "a defense with a zero byte": renamed("a\0b"),
    "a defense that is a sentence": renamed("the best\n\x1b[31mof all"),
    "a title of ten megabytes": put("x" * 10_000_000, "title"),
    "a label of terminal commands": put("\x1b]0;owned\x07\x1b[2J" * 50, "defenses", "plain", "label"),
    "a label of markup": put("[/]<script>alert(1)</script>$\\input{/etc/passwd}|`", "defenses", "plain", "label"),
    "cells as a mapping": put({}, "cells"),
    "a cell that is none": put([None], "cells"),
    "a pairing twice": manifest(lambda content: content["cells"].append(content["cells"][0])),
    "20,000 pairings": manifest(many_cells),
    "a table of nine million places": manifest(wide_table),
    "defenses as a list": put([], "defenses"),
    "no defense": put({}, "defenses"),
    "no attack": put({}, "attacks"),
    "a defense that is null": put(None, "defenses", "plain"),
    "randomness as text": put("yes", "defenses", "plain", "stochastic"),
    "a budget that is none": put("Linf eight", "cells", 0, "threat"),
    "a budget that divides by zero": put("Linf 1/0", "cells", 0, "threat"),
    "a budget beyond floats": put("Linf 1e999", "cells", 0, "threat"),
    "a budget of 100,000 digits": put("Linf " + "9" * 100_000 + "x", "cells", 0, "threat"),
    "an empty budget": put("", "cells", 0, "threat"),
    "a flow that is a norm": put("Flow 0.1", "cells", 0, "threat"),
    "an unknown rule of votes": put("best", "report", "vote"),
    "an average of strangers": put(["nobody", "noise"], "report", "average"),
    "naive attacks that are none": put(["nobody"], "report", "naive"),
    "groups of groups": put({"a": {"b": ["plain"]}}, "report", "groups"),
    "groups of strangers": put({"a": ["nobody"]}, "report", "groups"),
    "a reference outside": put("../../../../etc/passwd", "report", "reference"),
    "a sweep without values": put(
        [{"kind": "defenses", "name": "x", "label": "x", "paths": ["eta"], "variants": {"plain": []}}], "sweeps"
    ),
    "a sweep of odd values": put(
        [{"kind": "attacks", "name": "x", "label": "x", "paths": ["a"], "variants": {"noise": [{}], "pgd": [None]}}],
        "sweeps",
    ),
    "a sweep of strangers": put(
        [{"kind": "defenses", "name": "x", "label": "x", "paths": ["eta"], "variants": {"nobody": [1]}}], "sweeps"
    ),
    "a sweep of neither": put([{"kind": "x", "name": "x", "label": "x", "paths": ["eta"], "variants": {}}], "sweeps"),
    "sessions as text": put("never", "sessions"),
    "a session of numbers": put([{"started": 3}], "sessions"),
    "no sessions": put([], "sessions"),
    "nothing resolved": put({}, "resolved"),
    "arguments as a list": put([], "resolved", "defenses", "plain", "arguments"),
    "another type, resolved": put("rdc", "resolved", "defenses", "plain", "type"),
    "an attack of 1,000,000,000 steps": put(1_000_000_000, "resolved", "cells", "plain/pgd", "arguments", "steps"),
    "a file of code": put("./evil.py:Evil", "resolved", "defenses", "plain", "type"),
    "a module of code": put("os:system", "resolved", "defenses", "plain", "type"),
    "a dataset that is a pipe": dataset_at(pipe),
    "a dataset that never ends": dataset_at(endless),
    "a dataset that is a folder of itself": dataset_at(lambda path: (path.unlink(), path.symlink_to("."))),
    "a dataset that swells": dataset_at(swelling),
    "a dataset of another name": put("imagenet", "dataset", "name"),
    "a dataset at a number": put(3, "resolved", "dataset", "path"),
    "weights that are a pipe": weights_at(pipe),
    "weights that never end": weights_at(endless),
    "hashes as text": put("x", "cells", 0, "records"),
    "a million hashes": put(["0" * 64] * 100_000, "cells", 0, "records"),
    "another seal": put("0" * 64, "seal"),
}
