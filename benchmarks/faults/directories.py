"""Results directories and suites that nobody's run made: a command ends in an error or an answer, in bounds.

A directory that names code is one of them: nothing of it may be executed by `report`, `compare` and `verify`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults.trial import SUITE, Trial, bounded, manifest, prepare
from helpers.forked import run

COMMANDS = (
    ["report", "bad"],
    ["report", "bad", "--format", "csv"],
    ["report", "bad", "--format", "html"],
    ["compare", "out", "bad"],
    ["verify", "bad", "--device", "cpu"],
    ["run", "suite.yaml", "--out", "bad", "--device", "cpu"],
)

RAN = "was-executed"
CODE = f"""import pathlib
pathlib.Path({RAN!r}).touch()
from attacks.pgd import PGD
from defenses.undefended import Undefended
"""


def trials(folder: Path) -> Iterator[Trial]:
    out = prepare(folder)
    (folder / "code.py").write_text(CODE)
    for name, spoil in DIRECTORIES.items():
        _clear(folder / "bad")
        shutil.copytree(out, folder / "bad")
        spoil(folder / "bad")
        for command in COMMANDS:
            yield _tried(folder, name, command)
    for name, write in SUITES.items():
        write(folder)
        for command in (["show", "bad.yaml"], ["run", "bad.yaml", "--out", "never", "--device", "cpu"]):
            yield _tried(folder, f"suite: {name}", command)
        for path in folder.glob("bad*.yaml"):
            path.unlink()


def _tried(folder: Path, name: str, command: list[str]) -> Trial:
    done = run(command, folder, limit=20)
    broken = bounded(done)
    if (folder / RAN).exists():
        (folder / RAN).unlink()
        if command[0] != "run":
            broken = "code was executed"
    if broken:
        return Trial("directories", name, "wrong", f"{' '.join(command)}: {broken}")
    return Trial("directories", name, "right" if done.status == 0 else "said", f"{' '.join(command)}: {done.status}")


def _clear(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")) if folder.exists() else ():
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder, ignore_errors=True)


def _text(text: str | bytes) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        (out / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())

    return spoil


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        found = manifest(out)
        change(found)
        (out / "run.json").write_text(json.dumps(found))

    return spoil


def _cells(**changes: Any) -> Callable[[Path], None]:
    return _edit(lambda m: [cell.update(changes) for cell in m["cells"]])


def _shard(out: Path, suffix: str) -> Path:
    return sorted((out / "cells/plain/pgd").glob(f"*.{suffix}"))[0]


def _replaced(suffix: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        path = _shard(out, suffix)
        path.unlink()
        make(path)

    return spoil


def _manifest_as(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        (out / "run.json").unlink()
        make(out / "run.json")

    return spoil


def _rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """A shard's records as another table, with the old facts."""

    def spoil(out: Path) -> None:
        path = _shard(out, "parquet")
        table = pq.ParquetFile(path).read()
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)

    return spoil


def _bomb(table: pa.Table) -> pa.Table:
    """Some hundred kB that decode into gigabytes."""
    many = pa.concat_tables([table] * 4)
    return many.take(np.zeros(20_000_000, dtype=np.int32))


def _wide(table: pa.Table) -> pa.Table:
    lists = pa.array([[1] * 2_000_000 for _ in range(len(table))], pa.list_(pa.int64()))
    return table.set_column(table.schema.get_field_index("adv_votes"), table.schema.field("adv_votes"), lists)


def _long_text(table: pa.Table) -> pa.Table:
    texts = pa.array(["x" * 50_000_000] * len(table), pa.string())
    return table.set_column(table.schema.get_field_index("error"), "error", texts)


def _tensor_header(length: int, header: bytes, data: bytes = b"") -> Callable[[Path], object]:
    return lambda path: path.write_bytes(length.to_bytes(8, "little") + header + data)


def _names_code(out: Path) -> None:
    def change(m: dict[str, Any]) -> None:
        m["resolved"]["defenses"]["plain"]["type"] = "./code.py:Undefended"
        for name in m["resolved"]["cells"]:
            m["resolved"]["cells"][name]["type"] = "./code.py:PGD"

    _edit(change)(out)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


DIRECTORIES: dict[str, Callable[[Path], Any]] = {
    "run.json empty": _text(""),
    "run.json a list": _text("[]"),
    "run.json null": _text("null"),
    "run.json a number": _text("1e400"),
    "run.json of no UTF-8": _text(b"\xff\xfe{}"),
    "run.json nested 100,000 deep": _text(_nested(100_000)),
    "run.json of 300 MB": lambda out: os.truncate(out / "run.json", 300 << 20),
    "run.json with 100,000 digits": _text('{"schema_version": ' + "9" * 100_000 + "}"),
    "run.json a folder": _manifest_as(Path.mkdir),
    "run.json a FIFO": _manifest_as(os.mkfifo),
    "run.json /dev/zero": _manifest_as(lambda path: path.symlink_to("/dev/zero")),
    "run.json a loop of links": _manifest_as(lambda path: path.symlink_to(path)),
    "count of a billion": _cells(count=10**9),
    "count of a billion, shards of one": _cells(count=10**9, shard=1),
    "count of 10^30": _cells(count=10**30),
    "count negative": _cells(count=-1),
    "count a text": _cells(count="12"),
    "shards of none": _cells(shard=0),
    "votes of a billion": _edit(lambda m: m["protocol"].update(votes=10**9)),
    "seed of 4,000 digits": _edit(lambda m: m["protocol"].update(seed=10**4000)),
    "NaN for a seed": _edit(lambda m: m["protocol"].update(seed=float("nan"))),
    "a defense outside the folder": _edit(lambda m: [c.update(defense="../../..") for c in m["cells"]]),
    "a defense with an absolute path": _edit(lambda m: [c.update(defense="/etc") for c in m["cells"]]),
    "a defense with a NUL": _edit(lambda m: [c.update(defense="a\0b") for c in m["cells"]]),
    "a defense of 100,000 characters": _edit(lambda m: m["cells"][0].update(defense="x" * 100_000)),
    "a defense that is not listed": _edit(lambda m: m["defenses"].pop("plain")),
    "an attack that is not listed": _edit(lambda m: m["attacks"].pop("pgd")),
    "no pairing": _edit(lambda m: m.update(cells=[])),
    "pairings twice": _edit(lambda m: m.update(cells=m["cells"] * 2)),
    "pairings 20,000 times": _edit(lambda m: m.update(cells=m["cells"] * 5000)),
    "three million indices": _edit(lambda m: m["dataset"].update(indices=list(range(3_000_000)))),
    "indices that are texts": _edit(lambda m: m["dataset"].update(indices=["a"] * 12)),
    "indices that are negative": _edit(lambda m: m["dataset"].update(indices=[-5] * 12)),
    "sweeps of nonsense": _edit(lambda m: m.update(sweeps=[{"kind": "defenses", "variants": 3}])),
    "sweeps of unknown variants": _edit(
        lambda m: m.update(
            sweeps=[{"kind": "defenses", "name": "q", "label": "q", "paths": ["a"], "variants": {"nobody": [1]}}]
        )
    ),
    "sessions of nonsense": _edit(lambda m: m.update(sessions=[3, "x", None])),
    "sessions missing": _edit(lambda m: m.pop("sessions")),
    "dataset missing": _edit(lambda m: m.pop("dataset")),
    "defenses a list": _edit(lambda m: m.update(defenses=[1])),
    "report of nonsense": _edit(lambda m: m.update(report={"average": 3, "groups": [1]})),
    "average of unknown attacks": _edit(lambda m: m["report"].update(average=["nobody", "none"])),
    "an unknown reference": _edit(lambda m: m["report"].update(reference="../../../etc/passwd")),
    "labels of markup": _edit(
        lambda m: [d.update(label="<script>alert(1)</script>[red]\x1b[2J|`=1+1") for d in m["defenses"].values()]
    ),
    "a title of control characters": _edit(lambda m: m.update(title="\x1b]0;x\x07\x1b[2J\r\n\u202e")),
    "resolved of nonsense": _edit(lambda m: m.update(resolved={"defenses": 3})),
    "resolved names code": _names_code,
    "threat of nonsense": _cells(threat="Linf NaN"),
    "threat of 10^400": _cells(threat="Linf 1e400"),
    "records of 20 million rows in a small file": _rewritten(_bomb),
    "records with votes by the million": _rewritten(_wide),
    "records with texts of 50 MB": _rewritten(_long_text),
    "records without rows": _rewritten(lambda table: table.slice(0, 0)),
    "records of other columns": _rewritten(lambda table: table.select(["index", "label"])),
    "records a FIFO": _replaced("parquet", os.mkfifo),
    "records /dev/zero": _replaced("parquet", lambda path: path.symlink_to("/dev/zero")),
    "records a folder": _replaced("parquet", Path.mkdir),
    "records of 2 GB of nothing": lambda out: os.truncate(_shard(out, "parquet"), 2 << 30),
    "images a FIFO": _replaced("safetensors", os.mkfifo),
    "images /dev/zero": _replaced("safetensors", lambda path: path.symlink_to("/dev/zero")),
    "images of 4 GB of nothing": lambda out: os.truncate(_shard(out, "safetensors"), 4 << 30),
    "images with a header of 2^60 bytes": _replaced("safetensors", _tensor_header(1 << 60, b"{}")),
    "images with a header of nonsense": _replaced("safetensors", _tensor_header(9, b'{"images"')),
    "shards of names that are no numbers": lambda out: (out / "cells/plain/pgd/x-y.parquet").write_bytes(b""),
    "shards of 5,000-digit names": lambda out: (out / f"cells/plain/pgd/{'9' * 120}-{'9' * 121}.parquet").touch(),
    "cells a link to /": lambda out: (shutil.rmtree(out / "cells"), (out / "cells").symlink_to("/")),
    "cells a file": lambda out: (shutil.rmtree(out / "cells"), (out / "cells").touch()),
    "diagnostics of nonsense": lambda out: [
        (out / name).write_text('{"a": [1, 2') for name in ("diagnostics.json", "diagnose.json")
    ],
    "a folder within itself": lambda out: (out / "loop").symlink_to(out),
}


def _suite(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "bad.yaml").write_text(text) and None


def _bomb_of_anchors() -> str:
    lines = ["x-0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\n" + SUITE


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "bad.yaml")


def _extends_fifo(folder: Path) -> None:
    os.mkfifo(folder / "bad-base.yaml")
    (folder / "bad.yaml").write_text("extends: bad-base.yaml\n" + SUITE)


SUITES: dict[str, Callable[[Path], None]] = {
    "extends /dev/zero": _suite("extends: /dev/zero\n" + SUITE),
    "extends itself": _suite("extends: bad.yaml\n" + SUITE),
    "extends a folder": _suite("extends: .\n" + SUITE),
    "extends a FIFO": _extends_fifo,
    "a FIFO": _fifo,
    "a seed of 100,000 digits": _suite(SUITE.replace("seed: 0", "seed: " + "9" * 100_000)),
    "a size of 10^18": _suite(SUITE.replace("first: 12", "first: 1000000000000000000")),
    "nested 20,000 deep": _suite(SUITE + "x-deep: " + _nested(20_000)),
    "anchors that multiply": _suite(_bomb_of_anchors()),
    "anchors within themselves": _suite("x-a: &a [*a]\n" + SUITE),
    "a title of control characters": _suite('title: "\\e[2J\\a"\n' + SUITE),
    "a misspelt key without a value": _suite("titel:\n" + SUITE),
    "a sweep of a million": _suite(SUITE + "sweep: {defense.noisy.rate: [" + ", ".join(["0.1"] * 100_000) + "]}\n"),
    "100 MB of spaces": lambda folder: (folder / "bad.yaml").write_text(SUITE + " " * (100 << 20)) and None,
    "a binary file": lambda folder: (folder / "bad.yaml").write_bytes(bytes(range(256)) * 10) and None,
}
