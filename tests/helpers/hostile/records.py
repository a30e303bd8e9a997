"""Files of records with hashes that hold and other content than a run would write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.hostile.places import PLACES, Spoil


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
