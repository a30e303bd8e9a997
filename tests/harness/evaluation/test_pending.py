"""What is still to do is exactly what does not lie finished on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from harness.datasets.batch import Images
from harness.errors import UserError
from harness.evaluation.pending import CellRun, failures, load_images, pending_work, refuse_loss
from harness.evaluation.run import run
from harness.evaluation.shard_records import failed_records
from harness.results.columns import Columns
from harness.results.record import Record
from harness.results.store import ShardRange, Store
from harness.suite import load_suite

CPU = torch.device("cpu")


def pending(suite: Path, out: Path, notes: list[str] | None = None, *, retry_errors: bool = True) -> list[CellRun]:
    plan = load_suite(suite)
    heard = [] if notes is None else notes
    return pending_work(plan, Store(out), load_images(plan)[1], heard.append, retry_errors=retry_errors)


def finished(suite: Path, out: Path) -> None:
    run(load_suite(suite), out, CPU)


def test_of_an_empty_directory_every_shard_of_every_pairing_is_missing(small_suite: Path, tmp_path: Path) -> None:
    found = pending(small_suite, tmp_path / "out")
    assert [cell_run.name for cell_run in found] == ["plain/weak", "plain/strong", "noisy/weak", "noisy/strong"]
    assert all(cell_run.missing == [(0, 4), (4, 8), (8, 10)] and not cell_run.records for cell_run in found)
    assert len({cell_run.stored.key for cell_run in found}) == 4


@pytest.mark.slow
def test_of_a_finished_directory_nothing_is_missing_and_records_are_in_order(small_suite: Path, tmp_path: Path) -> None:
    finished(small_suite, tmp_path / "out")
    for cell_run in pending(small_suite, tmp_path / "out"):
        assert not cell_run.missing
        assert [record.index for record in cell_run.records] == list(range(10))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "safetensors"])
def test_a_shard_without_one_of_its_files_is_missing_alone(small_suite: Path, tmp_path: Path, suffix: str) -> None:
    out, notes = tmp_path / "out", list[str]()
    finished(small_suite, out)
    (out / "cells" / "noisy" / "weak" / f"00004-00008.{suffix}").unlink()
    missing = {cell_run.name: cell_run.missing for cell_run in pending(small_suite, out, notes)}
    assert missing == {"plain/weak": [], "plain/strong": [], "noisy/weak": [(4, 8)], "noisy/strong": []}
    assert [note.partition(":")[0] for note in notes] == (
        ["noisy/weak, images 4 to 7"] if suffix == "safetensors" else []
    )


def test_another_seed_makes_every_shard_missing(small_suite: Path, tmp_path: Path) -> None:
    finished(small_suite, tmp_path / "out")
    small_suite.write_text(small_suite.read_text().replace("seed: 0", "seed: 1"))
    notes: list[str] = []
    assert all(len(cell_run.missing) == 3 for cell_run in pending(small_suite, tmp_path / "out", notes))
    assert len(notes) == 12


@pytest.mark.slow
def test_errors_are_missing_only_where_they_are_tried_again_and_are_counted_by_reason(
    small_suite: Path, tmp_path: Path
) -> None:
    small_suite.write_text(small_suite.read_text().replace('fakes.py:Noise", eps: 0.9', 'fakes.py:Crash", eps: 0.9'))
    finished(small_suite, tmp_path / "out")
    again = {cell_run.name: len(cell_run.missing) for cell_run in pending(small_suite, tmp_path / "out")}
    assert again["plain/weak"] == again["noisy/weak"] == 0 and again["noisy/strong"] == 3
    kept = pending(small_suite, tmp_path / "out", retry_errors=False)
    assert not any(cell_run.missing for cell_run in kept)
    by_name = {failure.name: failure for failure in failures(kept)}
    assert by_name.keys() == {"plain/strong", "noisy/strong"}
    [(reason, count)] = by_name["noisy/strong"].reasons.items()
    assert count == by_name["noisy/strong"].errors == 10 == by_name["noisy/strong"].images
    assert "planted failure" in reason


def test_a_finished_file_that_has_gone_is_an_error_that_names_it(small_suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(small_suite, out)
    found = pending(small_suite, out)
    refuse_loss(Store(out), found)
    gone = out / "cells" / "plain" / "weak" / "00000-00004.parquet"
    gone.unlink()
    with pytest.raises(UserError, match="of this run were deleted while it went on") as refused:
        refuse_loss(Store(out), found)
    assert str(gone) in str(refused.value)


def test_records_of_many_small_shards_are_kept_in_one_table(small_suite: Path, tmp_path: Path) -> None:
    cell_run = pending(small_suite, tmp_path / "out")[0]
    shards: dict[ShardRange, Sequence[Record] | None] = {}
    for start in range(0, 80, 2):
        made = failed_records(
            Images(torch.tensor([start, start + 1]), *[torch.zeros(2)] * 2), cell_run.seeds, f"{start}"
        )
        shards[start, start + 2] = made if start % 3 else Columns.of(made)
    shards[80, 82] = None
    expected = {bounds: records and list(records) for bounds, records in shards.items()}
    many, base = replace(cell_run, shards=shards), pa.total_allocated_bytes()
    apart = [Columns.of(records) for records in shards.values() if records]
    most = pa.total_allocated_bytes() - base
    del apart, made
    many.compact()
    assert {bounds: records and list(records) for bounds, records in many.shards.items()} == expected
    assert many.missing == [(80, 82)]
    assert pa.total_allocated_bytes() - base < most / 4
