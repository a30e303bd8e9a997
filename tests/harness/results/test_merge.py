"""Many shards of a finished pairing become a few files, and nothing that was stored is lost or changed by that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from harness import files
from harness.evaluation.run import run
from harness.results import merge as merging
from harness.results.cell_files import Damaged, Stale
from harness.results.cell_store import CellStore, ShardRange, shard_ranges
from harness.results.load import read_run
from harness.results.merge import merge
from harness.results.record import Record
from harness.suite import load_suite
from helpers.verified import CPU, edit_manifest, in_cell, manifest, reports

SHARDS = shard_ranges(70, 2)


def made(index: int, **changes: Any) -> Record:
    facts: dict[str, Any] = {"verdict": "robust", "flags": ["odd"] * (index % 2), "error": None, **changes}
    return Record(index, index % 3, adv_votes=[index % 3], clean_votes=[1], **SIZES, **facts)


SIZES: dict[str, Any] = {
    **{"clean_margins": [0.5], "adv_margins": [0.25], "linf": 0.5, "l2": 1.5, "l1": 2.5, "flow": None},
    **{"violation": 0.0, "forwards": 20, "backwards": 10, "seconds": 0.125, "seed": 7},
}


def images(start: int, stop: int, shift: float = 0.0) -> dict[str, torch.Tensor]:
    values = torch.arange(16.0 * start, 16.0 * stop).reshape(-1, 1, 4, 4) / 1200 + shift
    return {"images": values, "flow": values.permute(0, 2, 3, 1).repeat(1, 1, 1, 2)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here has to survive a power failure."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def cell(tmp_path: Path) -> CellStore:
    """A finished pairing of 35 shards of two images."""
    cell = CellStore(tmp_path / "cells/d/a", "key")
    for start, stop in SHARDS:
        cell.write(start, stop, [made(index) for index in range(start, stop)], images(start, stop))
    return cell


def held(folder: Path, shards: list[ShardRange] = SHARDS) -> list[Any]:
    """All that can be asked of the shards in a folder, by somebody who has not looked before."""
    cell = CellStore(folder, "key")
    tensors = [{name: t.tolist() for name, t in cell.images(*bounds).items()} for bounds in shards]
    first = {name: t.tolist() for name, t in cell.images(*shards[-1], 1).items()}
    records = [list(cell.read(*bounds) or []) for bounds in shards]
    return [records, tensors, first, *([ask(*b) for b in shards] for ask in (cell.shapes, cell.digest)), cell.shards()]


def names(cell: CellStore) -> list[str]:
    return sorted(path.name for path in cell.folder.iterdir())


def test_merged_shards_are_what_they_were(cell: CellStore) -> None:
    before = held(cell.folder)
    merge(cell, SHARDS)
    assert len(names(cell)) == 2 and all(name.startswith("00000-00070-") for name in names(cell))
    assert held(cell.folder) == before
    assert [path.name for path in cell.paths(SHARDS)] == sorted(names(cell), reverse=True)
    merge(cell, SHARDS)
    assert len(names(cell)) == 2 and held(cell.folder) == before


def test_merging_keeps_no_records_in_memory(cell: CellStore) -> None:
    before = pa.total_allocated_bytes()
    merge(cell, SHARDS)
    assert pa.total_allocated_bytes() == before
    assert cell.read(*SHARDS[1]) is not None and pa.total_allocated_bytes() > before


def test_a_few_shards_stay_as_they_are(cell: CellStore) -> None:
    before = names(cell)
    merge(cell, SHARDS[:32])
    assert names(cell) == before


@pytest.mark.parametrize(("most", "count"), [(6 * 2 * 16 * 4 * 3, 6), (1, 35)])
def test_files_hold_no_more_than_may_be_read_at_once(
    cell: CellStore, monkeypatch: pytest.MonkeyPatch, most: int, count: int
) -> None:
    """A shard has two images of 16 values and a flow of 32, of four bytes each."""
    monkeypatch.setattr(merging, "MERGED_BYTES", most)
    before = held(cell.folder)
    merge(cell, SHARDS)
    assert len(names(cell)) == 2 * count and held(cell.folder) == before


def test_shards_with_other_tensors_have_a_file_of_their_own(cell: CellStore) -> None:
    """As those whose defense failed, which have no flow."""
    cell.write(20, 22, [made(20), made(21)], {"images": images(20, 22)["images"]})
    before = held(cell.folder)
    merge(cell, SHARDS)
    assert [name[:11] for name in names(cell)][::2] == ["00000-00020", "00020-00022", "00022-00070"]
    assert held(cell.folder) == before


def test_a_shard_that_was_made_anew_goes_before_the_merged_one_and_is_merged_with_many_others(cell: CellStore) -> None:
    merge(cell, SHARDS)
    again = [made(4, verdict="fooled"), made(5, verdict="fooled")]
    cell.write(4, 6, again, images(4, 6, 0.5))
    fresh = CellStore(cell.folder, "key")
    assert fresh.read(4, 6) == again and fresh.images(4, 6)["images"].equal(images(4, 6, 0.5)["images"])
    assert fresh.read(2, 4) == [made(2), made(3)] and fresh.shards() == SHARDS
    for start, stop in SHARDS[:33]:
        if (start, stop) != (4, 6):
            cell.write(start, stop, [made(index) for index in range(start, stop)], images(start, stop))
    before = held(cell.folder)
    merge(cell, SHARDS)
    assert len(names(cell)) == 2 and held(cell.folder) == before


class Killed(BaseException):
    pass


def dies_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets so many renamings and removals of files happen, and no more."""
    left = [moment]

    def step(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return act(*arguments, **options)

        return acting

    monkeypatch.setattr(os, "replace", step(os.replace))
    monkeypatch.setattr(Path, "unlink", step(Path.unlink))
    monkeypatch.setattr(files, "_discard", lambda path: None)


@pytest.mark.parametrize(
    ("moment", "merged_before"), [(0, False), (1, False), (2, False), (40, False), (2, True), (3, True), (5, True)]
)
def test_a_crash_at_any_moment_loses_nothing_and_the_next_run_finishes(
    cell: CellStore, moment: int, merged_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if merged_before:
        merge(cell, SHARDS)
        for start, stop in SHARDS[:33]:
            cell.write(start, stop, [made(i, verdict="fooled") for i in range(start, stop)], images(start, stop, 0.5))
    before = held(cell.folder)
    with monkeypatch.context() as dying:
        dies_at(moment, dying)
        with pytest.raises(Killed):
            merge(CellStore(cell.folder, "key"), SHARDS)
    assert held(cell.folder) == before
    again = CellStore(cell.folder, "key")
    merge(again, SHARDS)
    assert held(cell.folder) == before
    own = [name for name in names(cell) if name.count("-") == 1 and name.endswith("parquet")]
    assert len(own) <= merging.MANY


def other_image(folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_label(folder: Path) -> None:
    (path,) = folder.glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[50]["label"] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def cut(folder: Path) -> None:
    (path,) = folder.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [other_image, other_label, cut])
def test_a_damaged_merged_file_is_not_believed(cell: CellStore, damage: Callable[[Path], None]) -> None:
    merge(cell, SHARDS)
    damage(cell.folder)
    fresh = CellStore(cell.folder, "key")
    with pytest.raises(Damaged):
        fresh.read(0, 2)
    assert fresh.shards() == [(0, 70)]
    with pytest.raises(Damaged):
        fresh.read(0, 70)


@pytest.mark.parametrize(
    "parts",
    ["", "{}", "[]", "[[0, 70]]", '[[0, 2, "x"]]', '[[0, 2, "x"], [3, 70, "x"]]', '[[0, 71, "x"]]', '[[0, "70", "x"]]'],
)
def test_a_merged_file_that_does_not_say_what_it_holds_is_not_believed(cell: CellStore, parts: str) -> None:
    merge(cell, SHARDS)
    (path,) = cell.folder.glob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), b"parts": parts.encode()}), path)
    with pytest.raises(Damaged, match="cannot be read"):
        CellStore(cell.folder, "key").read(0, 2)


def test_merged_shards_of_another_claim_are_stale(cell: CellStore) -> None:
    merge(cell, SHARDS)
    with pytest.raises(Stale):
        CellStore(cell.folder, "another").read(0, 2)


def test_nothing_is_merged_before_all_of_it_is_there_and_valid(cell: CellStore) -> None:
    (cell.folder / "00040-00042.parquet").unlink()
    before = names(cell)
    with pytest.raises(Damaged, match="40 to 41 are not stored"):
        merge(cell, SHARDS)
    assert names(cell) == before


def test_nothing_is_removed_when_the_directory_is_no_longer_the_run_s(cell: CellStore) -> None:
    def replaced() -> None:
        raise RuntimeError("it was replaced")

    before = held(cell.folder)
    with pytest.raises(RuntimeError):
        merge(cell, SHARDS, replaced)
    assert held(cell.folder) == before and len(names(cell)) == 72


# As part of a run


@pytest.fixture
def finished(small_suite: Path) -> Path:
    """A run of two pairings of 40 shards each, which is merged at its end."""
    text = small_suite.read_text().replace("first: 10", "first: 40").replace("shard: 4", "shard: 1")
    small_suite.write_text(text.split("attacks:")[0] + 'attacks:\n  weak: {type: "./fakes.py:Noise", eps: 1/16}\n')
    run(load_suite(small_suite), small_suite.parent / "out", CPU)
    return small_suite.parent / "out"


@pytest.mark.slow
def test_a_finished_run_is_merged_and_has_nothing_left_to_do(finished: Path) -> None:
    suite = finished.parent / "small.yaml"
    assert len(list(finished.glob("cells/*/*/*.parquet"))) == 2
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert run(load_suite(suite), finished, CPU).computed == 0
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert all(pairing.finished for pairing in read_run(finished).pairings.values())
    assert all(report.outcome == "holds" for report in reports(finished).values())
    shutil.rmtree(finished / "cells/plain")
    assert run(load_suite(suite), finished, CPU).computed == 40
    assert all(report.outcome == "holds" for report in reports(finished).values())


@pytest.mark.slow
def test_verification_compares_merged_shards_with_the_hashes_of_the_manifest(finished: Path) -> None:
    listed = manifest(finished)["cells"][0]["records"]
    edit_manifest(finished, in_cell(records=["0" * 64, *listed[1:]]), sealed=True)
    report = reports(finished, only="plain/weak")["plain/weak"]
    assert report.problems == ["images 0 to 0 of the run: these are not the records that run.json lists"]


@pytest.mark.slow
def test_errors_of_merged_shards_are_tried_again_and_the_others_are_kept(finished: Path) -> None:
    suite = finished.parent / "small.yaml"
    content = json.loads((finished / "run.json").read_text())
    facts = content["cells"][0]
    cell = CellStore(finished / "cells/plain/weak", facts["key"])
    bounds = shard_ranges(40, 1)
    kept = {b: (list(cell.read(*b) or []), cell.images(*b)) for b in bounds}
    shutil.rmtree(cell.folder)
    for b, (records, tensors) in kept.items():
        failed = [Record(**{**asdict(record), "verdict": "error", "error": "why"}) for record in records]
        cell.write(*b, failed if b[0] in (3, 7) else records, tensors)
    merge(cell, bounds)
    assert run(load_suite(suite), finished, CPU).computed == 2
    fresh = CellStore(cell.folder, facts["key"])
    for b, (records, tensors) in kept.items():
        found = [Record(**{**asdict(record), "seconds": 0.0}) for record in fresh.read(*b) or []]
        assert found == [Record(**{**asdict(record), "seconds": 0.0}) for record in records]
        assert fresh.images(*b)["images"].equal(tensors["images"])
