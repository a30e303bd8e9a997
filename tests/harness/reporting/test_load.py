from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.reporting import find_runs
from harness.results.load import read_run
from harness.results.record import Record
from harness.results.store import Store


def test_a_run_is_found_as_itself_and_from_above(tmp_path: Path) -> None:
    for name in ("b", "a/deep", "a/deep/inner", "reference"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    for name in ("b", "a/deep", "a/deep/inner"):
        (tmp_path / name / "run.json").write_text("{}")
    assert find_runs(tmp_path) == [tmp_path / "a/deep", tmp_path / "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]


@pytest.mark.parametrize(("name", "reason"), [("", "contains no results"), ("absent", "is not a directory")])
def test_where_there_is_no_run_the_error_says_how_to_make_one(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{reason}.*harness run"):
        find_runs(tmp_path / name)


def test_a_diagnosis_alone_is_no_run_and_the_error_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "diagnose").mkdir()
    with pytest.raises(UserError, match=f"a diagnosis and no results.*harness run SUITE --out {tmp_path}"):
        find_runs(tmp_path)


def test_records_come_by_position_with_their_fields(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("d", "a", column("rwrw"))
    pairing = read_run(maker.finish()).pairings["d", "a"]
    assert (pairing.done, pairing.total, pairing.finished) == (4, 4, True)
    assert list(pairing.records.index) == [0, 1, 2, 3]
    assert list(pairing.records["index"]) == [100, 101, 102, 103]
    assert list(pairing.records["verdict"]) == ["robust", "fooled", "robust", "fooled"]


def test_a_pairing_not_yet_begun_has_no_records(maker: Any) -> None:
    maker.cell("d", "a", [])
    pairing = read_run(maker.finish()).pairings["d", "a"]
    assert (pairing.done, pairing.finished) == (0, False)


def test_the_last_shard_may_be_shorter(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.count = 5
    maker.cell("d", "a", column("rwrwr"))
    assert read_run(maker.finish()).pairings["d", "a"].finished


def test_a_damaged_shard_is_listed_and_not_counted(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("d", "a", column("rwrw"))
    (maker.root / "cells/d/a/00002-00004.safetensors").unlink()
    pairing = read_run(maker.finish()).pairings["d", "a"]
    assert list(pairing.records.index) == [0, 1] and not pairing.finished
    assert len(pairing.damaged) == 1 and "00002-00004" in pairing.damaged[0]


def test_records_of_another_claim_are_stale_and_not_counted(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("d", "a", column("rr"))
    other = Store(maker.root).cell("d", "a", "the key of another claim")
    other.write(2, 4, column("ww"), {"images": torch.zeros(2, 1, 2, 2)})
    pairing = read_run(maker.finish()).pairings["d", "a"]
    assert pairing.stale == ("2-4",) and not pairing.damaged
    assert list(pairing.records["verdict"]) == ["robust", "robust"]


def test_a_shard_of_another_size_is_stale(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("d", "a", column("rrrr"))
    Store(maker.root).cell("d", "a", "d-a").write(0, 3, column("www"), {"images": torch.zeros(3, 1, 2, 2)})
    pairing = read_run(maker.finish()).pairings["d", "a"]
    assert pairing.stale == ("0-3",) and pairing.done == 4


def test_a_manifest_that_lacks_something_is_refused_by_name(maker: Any) -> None:
    root = maker.finish()
    manifest = json.loads((root / "run.json").read_text())
    del manifest["dataset"]["count"]
    (root / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"run\.json: 'dataset\.count'.*field required"):
        read_run(root)


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run has begun"):
        read_run(tmp_path)
