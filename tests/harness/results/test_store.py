"""What is believed of results on disk."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.results.record import LATER, SCHEMA, SCHEMA_VERSION, Record
from harness.results.store import CellStore, Damaged, Stale, Store, shard_ranges
from helpers.examples import examples

pytestmark = pytest.mark.slow

COUNT = st.integers(0, 2**63 - 1)
SIZE = st.floats(0, width=32, allow_infinity=False)
TEXT = st.text(max_size=10)
DRAWS = st.lists(st.tuples(st.integers(-1, 999_999), st.floats(width=32)), max_size=3)
"""A vote and a margin each."""


def drawn(clean: list[tuple[int, float]], adv: list[tuple[int, float]], error: str | None, **facts: Any) -> Record:
    sides = {"clean": clean, "adv": adv}
    votes = {f"{side}_votes": [vote for vote, _ in draws] for side, draws in sides.items()}
    margins = {f"{side}_margins": [margin for _, margin in draws] for side, draws in sides.items()}
    return Record(verdict="error" if error else "robust", error=error, **votes, **margins, **facts)


RECORDS = st.builds(
    drawn,
    clean=DRAWS,
    adv=DRAWS,
    error=st.none() | TEXT,
    index=st.integers(0, 2**31 - 1),
    label=st.integers(0, 999_999),
    linf=SIZE,
    l2=SIZE,
    l1=SIZE,
    flow=st.none() | SIZE,
    violation=st.floats(0, width=32),
    forwards=COUNT,
    backwards=COUNT,
    seconds=SIZE,
    seed=st.integers(-(2**63), 2**63 - 1),
    flags=st.lists(TEXT, max_size=2),
    l0=st.none() | SIZE,
)
ON_ONE_FOLDER = settings(
    deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make(index: int, verdict: Any = "robust") -> Record:
    margins = [0.5, -0.5], [0.25]
    return Record(index, 1, verdict, [1, 2], [1], *margins, 0.5, 1.5, 2.5, None, 0.0, 20, 10, 0.125, 7, ["a flag"])


def images(shift: float = 0.0) -> dict[str, torch.Tensor]:
    return {"images": torch.arange(32.0).reshape(2, 1, 4, 4) / 32 + shift}


@pytest.fixture
def cell(tmp_path: Path) -> CellStore:
    """A pairing of two finished shards."""
    cell = Store(tmp_path).cell("d", "a", "key")
    cell.write(0, 2, [make(0), make(1, "fooled")], images())
    cell.write(2, 4, [make(2), make(3)], images(1.0))
    return cell


@given(st.integers(0, 200), st.integers(1, 250))
def test_shards_cover_every_image_once_and_all_but_the_last_are_full(images: int, shard: int) -> None:
    ranges = shard_ranges(images, shard)
    assert [place for start, stop in ranges for place in range(start, stop)] == list(range(images))
    assert all(stop - start == shard for start, stop in ranges[:-1]) and all(0 < b - a <= shard for a, b in ranges)


# Round trips


@given(st.lists(RECORDS, min_size=1, max_size=3))
@ON_ONE_FOLDER
def test_records_come_back_as_they_were(tmp_path: Path, records: list[Record]) -> None:
    cell = Store(tmp_path).cell("d", "a", "key")
    cell.write(0, len(records), records, {"images": torch.zeros(len(records), 1, 4, 4)})
    assert repr(cell.read(0, len(records))) == repr(records)  # repr: NaN differs from itself


def test_a_file_has_the_columns_that_earlier_versions_do_not_know_only_where_they_say_something(
    cell: CellStore,
) -> None:
    """So that results without them are byte for byte what an earlier version writes, and can read."""
    known = pq.read_schema(cell.folder / "00000-00002.parquet").names
    assert set(SCHEMA.names) - set(known) == set(LATER)
    counted = [dataclasses.replace(make(0), l0=3.0), make(1)]
    cell.write(0, 2, counted, images())
    assert pq.read_schema(cell.folder / "00000-00002.parquet").names == SCHEMA.names
    assert cell.read(0, 2) == counted and cell.read(2, 4) == [make(2), make(3)]


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8),
)
@ON_ONE_FOLDER
def test_images_of_any_shape_and_value_come_back_as_they_were(
    tmp_path: Path, shape: tuple[int, ...], values: list[float]
) -> None:
    cell, count = Store(tmp_path).cell("d", "a", "key"), shape[0]
    kept = torch.tensor(values).repeat(math.prod(shape))[: math.prod(shape)].reshape(shape)
    cell.write(0, count, [make(index) for index in range(count)], {"images": kept})
    assert cell.images(0, count)["images"].equal(kept)


def test_strided_tensors_and_those_of_a_graph_come_back_as_they_were(tmp_path: Path) -> None:
    cell = Store(tmp_path).cell("d", "a", "key")
    kept = {"images": torch.rand(2, 3, 4, 4).transpose(2, 3), "flow": torch.rand(2, 4, 4, 2, requires_grad=True)}
    cell.write(0, 2, [make(0), make(1)], kept)
    found = cell.images(0, 2)
    assert found.keys() == kept.keys() and all(torch.equal(found[name], kept[name]) for name in kept)


@pytest.mark.parametrize("name", ["eta=0.03", "with space", "ünïcode", "a.b"])
def test_names_of_defenses_and_attacks_are_only_names(tmp_path: Path, name: str) -> None:
    cell = Store(tmp_path).cell(name, name, "key")
    cell.write(0, 2, [make(0), make(1)], images())
    assert cell.read(0, 2) == [make(0), make(1)]


def test_a_shard_is_unfinished_until_its_records_lie_there(cell: CellStore) -> None:
    assert cell.read(4, 6) is None
    (cell.folder / "00000-00002.parquet").unlink()
    assert cell.read(0, 2) is None
    assert CellStore(cell.folder / "nowhere", "key").read(0, 2) is None


def test_shards_are_listed_in_order_without_strangers(cell: CellStore) -> None:
    cell.write(100_000, 100_002, [make(0), make(1)], images())
    for stranger in ("00000-00002 (copy).parquet", "0-1-2.parquet", "notes.parquet", "00004-00006.safetensors"):
        (cell.folder / stranger).write_bytes(b"")
    assert cell.shards() == [(0, 2), (2, 4), (100_000, 100_002)]


# Damage


def edit(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Rewrites a Parquet file as somebody would who keeps its metadata."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "images missing": lambda records, images: images.unlink(),
    "images cut": lambda records, images: images.write_bytes(images.read_bytes()[:-1]),
    "images longer": lambda records, images: images.write_bytes(images.read_bytes() + b"\0"),
    "images of another shard": lambda records, images: swap(images, images.with_name("00002-00004.safetensors")),
    "images not a file": lambda records, images: make_folder(images),
    "records empty": lambda records, images: records.write_bytes(b""),
    "records not Parquet": lambda records, images: records.write_text("index,label\n0,1\n"),
    "records not a file": lambda records, images: make_folder(records),
    "records of another shard": lambda records, images: swap(records, records.with_name("00002-00004.parquet")),
    "verdict edited": lambda records, images: edit(records, lambda rows: rows[1].update(verdict="robust")),
    "vote edited": lambda records, images: edit(records, lambda rows: rows[0].update(adv_votes=[2])),
    "row dropped": lambda records, images: edit(records, lambda rows: rows.pop()),
    "rows reordered": lambda records, images: edit(records, lambda rows: rows.reverse()),
    "metadata lost": lambda records, images: pq.write_table(pq.read_table(records).replace_schema_metadata(), records),
    "column lost": lambda records, images: pq.write_table(pq.read_table(records).drop_columns("violation"), records),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_detected(cell: CellStore, damage: str) -> None:
    DAMAGE[damage](cell.folder / "00000-00002.parquet", cell.folder / "00000-00002.safetensors")
    with pytest.raises(Damaged):
        cell.read(0, 2)


def test_damage_stays_in_its_shard_and_writing_again_mends_it(cell: CellStore) -> None:
    (cell.folder / "00000-00002.safetensors").unlink()
    assert cell.read(2, 4) == [make(2), make(3)]
    cell.write(0, 2, [make(0), make(1)], images())
    assert cell.read(0, 2) == [make(0), make(1)]


def test_a_whole_shard_under_another_shards_name_is_damaged(cell: CellStore) -> None:
    for suffix in ("parquet", "safetensors"):
        shutil.copy(cell.folder / f"00000-00002.{suffix}", cell.folder / f"00002-00004.{suffix}")
    with pytest.raises(Damaged, match="written as another shard"):
        cell.read(2, 4)


def test_cells_that_were_swapped_are_stale(tmp_path: Path) -> None:
    for attack in ("a", "b"):
        Store(tmp_path).cell("d", attack, f"key of {attack}").write(0, 2, [make(0), make(1)], images())
    folder = tmp_path / "cells/d"
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    with pytest.raises(Stale):
        Store(tmp_path).cell("d", "a", "key of a").read(0, 2)


def test_a_flipped_bit_never_changes_what_is_believed(cell: CellStore) -> None:
    """Parquet has bytes that mean nothing to the records; a flip there may pass, a changed record may not."""
    path = cell.folder / "00000-00002.parquet"
    whole, truth = path.read_bytes(), [make(0), make(1, "fooled")]
    damaged = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, position, (0, 1, 3, 7)[position % 4]))
        try:
            assert cell.read(0, 2) == truth
        except Damaged as damage:
            damaged += bool(str(damage))
    assert damaged > len(whole) / 7 / 3


@given(st.data())
@ON_ONE_FOLDER
def test_a_flipped_bit_of_the_images_is_detected(cell: CellStore, data: st.DataObject) -> None:
    path = cell.folder / "00000-00002.safetensors"
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))))
    with pytest.raises(Damaged, match="images"):
        cell.read(0, 2)
    path.write_bytes(whole)


@given(st.floats(0, 1, exclude_max=True))
@ON_ONE_FOLDER
def test_records_cut_anywhere_are_detected(cell: CellStore, share: float) -> None:
    path = cell.folder / "00000-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(Damaged):
        cell.read(0, 2)
    path.write_bytes(whole)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


# The manifest


def test_a_manifest_comes_back_with_the_schema_version(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    assert store.manifest() is None
    store.write_manifest({"suite": "ü", "cells": [{"count": 3}]})
    assert store.manifest() == {"schema_version": SCHEMA_VERSION, "suite": "ü", "cells": [{"count": 3}]}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"null", b"{}", b"\xff\xfe", b'"schema_version"'])
def test_what_is_no_manifest_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json: this is not a manifest"):
        Store(tmp_path).manifest()


def test_a_manifest_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99, this harness reads 2"):
        Store(tmp_path).manifest()


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        Store(tmp_path).manifest()


def test_records_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(0).verdict = "fooled"  # type: ignore[misc]
