"""Results directories that somebody made to do harm: to hang the reader, to fill its memory, to lead it out of the
directory, or to end in a traceback. Nothing here needs pytest: `sound` makes a directory, each of `CASES` spoils one.

Whoever makes them can compute hashes: shards carry the key of their pairing and hashes that hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch

from harness.evaluation.run import run
from harness.results.store import ShardRange
from harness.suite import load_suite

SUITE = """
suite: sound
dataset: {name: digits, first: 4}
protocol: {votes: 2, shard: 2}
defenses:
  plain: {type: undefended, weights: digits-cnn}
attacks:
  noise: {type: noise, norm: Linf, eps: 0.1}
  pgd: {type: pgd, norm: L2, eps: 0.5, steps: 1}
report: {average: [noise, pgd], worst: [noise, pgd]}
"""

GIGABYTE = 1 << 30
Spoil = Callable[[Path], object]
SHARD: ShardRange = (0, 2)


def sound(folder: Path) -> Path:
    """A finished run of two pairings, in two shards of two images each. Returns its directory."""
    folder.mkdir(parents=True, exist_ok=True)
    suite = folder / "sound.yaml"
    suite.write_text(SUITE)
    run(load_suite(suite), folder / "sound", torch.device("cpu"))
    return folder / "sound"


# Files that are none


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def sparse(path: Path) -> None:
    """Ten gigabytes of nothing, which take no space on disk."""
    with path.open("r+b") as file:
        file.truncate(10 * GIGABYTE)


def empty(path: Path) -> None:
    path.write_bytes(b"")


FILES: dict[str, Spoil] = {
    "a pipe": pipe,
    "/dev/zero": endless,
    "a loop of links": loop,
    "a folder": folder,
    "ten sparse gigabytes": sparse,
    "empty": empty,
}
PLACES = {
    "run.json": "run.json",
    "records": "cells/plain/noise/00000-00002.parquet",
    "images": "cells/plain/noise/00000-00002.safetensors",
    "a diagnosis": "diagnose/plain.json",
}


def instead(place: str, make: Spoil) -> Spoil:
    def spoil(root: Path) -> None:
        path = root / place
        path.parent.mkdir(exist_ok=True)
        path.touch()
        make(path)

    return spoil


# Manifests


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


# Records


def records_of(root: Path) -> list[dict[str, Any]]:
    return pq.read_table(root / PLACES["records"]).to_pylist()


def store_records(root: Path, table: pa.Table, signed: bool = True, **options: Any) -> None:
    """A file of records that hashes as it should. signed: if not, its own hash is left out, which takes long."""
    images = (root / PLACES["images"]).read_bytes()
    [cell] = [c for c in json.loads((root / "run.json").read_text())["cells"] if c["attack"] == "noise"]
    rows = table.slice(0, 1_000).to_pylist() if signed else []
    facts = {
        "schema_version": "2",
        "cell": cell["key"],
        "shard": "0-2",
        "images_sha256": hashlib.sha256(images).hexdigest(),
        "records_sha256": hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest(),
    }
    pq.write_table(table.replace_schema_metadata(facts), root / PLACES["records"], **options)


def records(change: Callable[[list[dict[str, Any]]], object], **options: Any) -> Spoil:
    """Other values in the two records of the first shard."""

    def spoil(root: Path) -> None:
        schema = pq.read_schema(root / PLACES["records"]).remove_metadata()
        rows = records_of(root)
        change(rows)
        store_records(root, pa.Table.from_pylist(rows, schema=schema), **options)

    return spoil


def one(**changes: Any) -> Spoil:
    return records(lambda rows: rows[1].update(changes))


def columns(change: Callable[[pa.Table], pa.Table]) -> Spoil:
    """Other columns."""

    def spoil(root: Path) -> None:
        store_records(root, change(pq.read_table(root / PLACES["records"])))

    return spoil


def unfolding(root: Path) -> None:
    """A list of ten million votes in a few kilobytes: they are all the same."""
    table = pq.read_table(root / PLACES["records"])
    values = pa.array(np.full(10_000_001, 7))
    votes = pa.ListArray.from_arrays(pa.array([0, 10_000_000, 10_000_001], type=pa.int32()), values)
    place = table.schema.get_field_index("clean_votes")
    store_records(root, table.set_column(place, table.schema.field("clean_votes"), votes), signed=False)


def one_long_text(root: Path) -> None:
    """A dictionary's one text of two megabytes, in each of 90 flags of each image: 360 when written out."""
    records(lambda rows: [row.update(flags=["x" * 2_000_000] * 90) for row in rows], signed=False)(root)


def lying_pages(root: Path) -> None:
    """The footer says two values where a page's header says two billion: Arrow goes by the page."""
    path = root / PLACES["records"]
    data = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(0)
    start, page = chunk.data_page_offset, data[chunk.data_page_offset :][:60]
    found = page.index(b"\x2c\x15\x04")  # the struct DataPageHeader, whose first field says 2 values
    huge = page[:found] + b"\x2c\x15\xfe\xff\xff\xff\x0f" + page[found + 3 :]
    path.write_bytes(data[:start] + huge[:60] + data[start + 60 :])


RECORDS: dict[str, Spoil] = {
    "not Parquet": lambda root: (root / PLACES["records"]).write_text("PAR1" + "x" * 100 + "PAR1"),
    "a footer of four gigabytes": lambda root: (
        (root / PLACES["records"]).write_bytes(b"PAR1\xff\xff\xff\x7fPAR1") and None
    ),
    "no record": records(lambda rows: rows.clear()),
    "a record too few": records(lambda rows: rows.pop()),
    "100,000 records too many": records(lambda rows: rows.extend([rows[0]] * 100_000)),
    "ten million votes": unfolding,
    "one text, many times": one_long_text,
    "pages that lie": lying_pages,
    "a text of fifty megabytes": one(error="x" * 50_000_000, verdict="error"),
    "compressed by Gzip": records(lambda rows: None, compression="gzip"),
    "compressed by Zstandard": records(lambda rows: None, compression="zstd"),
    "a column too many": columns(lambda table: table.append_column("extra", pa.array([1, 2]))),
    "a column too few": columns(lambda table: table.drop_columns("violation")),
    "votes as text": columns(lambda table: table.set_column(3, "clean_votes", pa.array([["a"], ["b"]]))),
    "labels as text": columns(lambda table: table.set_column(1, "label", pa.array(["a", "b"]))),
    "10,000 columns": columns(lambda table: pa.table({f"c{place}": [1, 2] for place in range(10_000)})),
    **{f"nothing in '{name}'": one(**{name: None}) for name in ("index", "label", "verdict", "linf", "seed", "flags")},
    **{f"nothing in '{name}'": one(**{name: None}) for name in ("clean_votes", "adv_votes", "adv_margins", "seconds")},
    "a vote that is nothing": one(clean_votes=[None]),
    "a margin that is nothing": one(adv_margins=[None]),
    "more margins than votes": one(adv_margins=[1.0, 2.0]),
    "a vote for class -7": one(clean_votes=[-7]),
    "a vote for class 2^62": one(adv_votes=[2**62]),
    "the label -5": one(label=-5),
    "the label 2^62": one(label=2**62),
    "the verdict 'perfect'": one(verdict="perfect"),
    "a flag that is nothing": one(flags=[None]),
    "a distance without a number": one(linf=float("nan")),
    "a distance without an end": one(l2=float("inf")),
    "a violation without a number": one(violation=float("nan")),
    "passes below none": one(forwards=-(2**63)),
    "passes without an end": one(backwards=2**63 - 1),
    "no time at all": one(seconds=float("-inf")),
    "a flow of an attack without one": one(flow=0.5),
    "an error of commands to the terminal": one(verdict="error", error="\x1b[2J\x07=cmd|' /C calc'!A0"),
    "the index of another image": one(index=2**31 - 1),
}


# Images


def images(make: Callable[[], bytes | dict[str, torch.Tensor]]) -> Spoil:
    """Another file of images, whose hash the records have."""

    def spoil(root: Path) -> None:
        made = make()
        (root / PLACES["images"]).write_bytes(made if isinstance(made, bytes) else safetensors.torch.save(made))
        records(lambda rows: None)(root)

    return spoil


def header(content: str | bytes, body: bytes = b"") -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return len(raw).to_bytes(8, "little") + raw + body


def shaped(*shape: int, **more: torch.Tensor) -> Spoil:
    return images(lambda: {"images": torch.zeros(shape), **more})


def huge_images(root: Path) -> None:
    """A sparse file whose header promises two images of half a gigabyte each, and holds that."""
    shape = [2, 1, 11_585, 11_585]
    size = 4 * shape[2] * shape[3] * 2
    entry = {"images": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    images(lambda: header(json.dumps(entry)))(root)
    with (root / PLACES["images"]).open("r+b") as file:
        file.truncate(8 + len(json.dumps(entry)) + size)


IMAGES: dict[str, Spoil] = {
    "not safetensors": images(lambda: b"x" * 100),
    "a header of an exabyte": images(lambda: b"\xff" * 7 + b"\x0f{}"),
    "a header that is no JSON": images(lambda: header("{")),
    "a header nested deep": images(lambda: header("[" * 30_000)),
    "a header without a shape": images(lambda: header('{"images": {}}')),
    "a shape of negatives": images(
        lambda: header('{"images": {"dtype": "F32", "shape": [2, -1, -8, 8], "data_offsets": [0, 512]}}', b"\0" * 512)
    ),
    "a shape beyond 64 bits": images(
        lambda: header('{"images": {"dtype": "F32", "shape": [2, 1, 99999999999999999999, 8], "data_offsets": [0, 8]}}')
    ),
    "offsets beyond the end": images(
        lambda: header('{"images": {"dtype": "F32", "shape": [2, 1, 8, 8], "data_offsets": [0, 512]}}')
    ),
    "half floats": images(lambda: {"images": torch.zeros(2, 1, 8, 8, dtype=torch.float16)}),
    "whole numbers": images(lambda: {"images": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}),
    "no images": images(lambda: {"pictures": torch.zeros(2, 1, 8, 8)}),
    "no tensor": images(lambda: {}),
    "one image": shaped(1, 1, 8, 8),
    "seven channels": shaped(2, 7, 8, 8),
    "larger images": shaped(2, 1, 16, 16),
    "coloured images": shaped(2, 3, 8, 8),
    "vectors": shaped(2, 64),
    "images of nothing": images(lambda: {"images": torch.zeros(2, 1, 0, 8)}),
    "a flow of another size": shaped(2, 1, 8, 8, flow=torch.zeros(2, 3, 3, 2)),
    "a flow without numbers": shaped(2, 1, 8, 8, flow=torch.full((2, 8, 8, 2), torch.nan)),
    "images without numbers": images(lambda: {"images": torch.full((2, 1, 8, 8), torch.nan)}),
    "images without an end": images(lambda: {"images": torch.full((2, 1, 8, 8), torch.inf)}),
    "two half gigabytes": huge_images,
}


# What lies beside


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

CASES: dict[str, Spoil] = {
    **{f"{place}: {what}": instead(PLACES[place], make) for place in PLACES for what, make in FILES.items()},
    **{f"run.json: {name}": spoil for name, spoil in MANIFESTS.items()},
    **{f"records: {name}": spoil for name, spoil in RECORDS.items()},
    **{f"images: {name}": spoil for name, spoil in IMAGES.items()},
    **BESIDE,
}
"""By name, what spoils a sound directory."""

HARMLESS = tuple(name for name in CASES if (name in BESIDE and "cells" not in name) or name.startswith("a diagnosis"))
"""What changes nothing that `verify` looks at, but for cells that are none."""
