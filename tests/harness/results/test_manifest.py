"""`run.json` comes back as it was written, is known when it was edited, and is refused where it contradicts itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.results.manifest import Contradiction, find_manifest, read_manifest, write_manifest
from harness.results.record import SCHEMA_VERSION
from harness.results.store import Store, shard_ranges

HASH = "0" * 32

CONTENT: dict[str, Any] = {
    "harness": "0.1.0",
    "suite": "small",
    "dataset": {
        "name": "digits",
        "split": "test",
        "count": 10,
        "indices": list(range(10)),
        "fingerprint": HASH,
        "num_classes": 10,
    },
    "protocol": {"votes": 3, "seed": 0, "shard": 4},
    "defenses": {"d": {"type": "undefended", "stochastic": False}},
    "attacks": {"a": {"label": "An attack"}},
    "cells": [
        {
            "defense": "d",
            "attack": "a",
            "key": "key",
            "threat": "Linf 1/4",
            "method": "pgd",
            "count": 10,
            "shard": 4,
            "records": [HASH * 2, None, None],
        }
    ],
    "resolved": {
        "suite": "small",
        "dataset": {"name": "digits", "split": "test"},
        "protocol": {"votes": 3, "seed": 0, "shard": 4},
        "defenses": {},
        "cells": {},
    },
}


def written(folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Store:
    """A store with this manifest; what is changed was changed after it was written, as by an editor."""
    store = Store(folder)
    write_manifest(store, copy.deepcopy(CONTENT))
    if change:
        path = folder / "run.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return store


def test_a_manifest_comes_back_as_it_was_written_with_nothing_added_but_version_and_seal(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path))
    assert manifest.document() == {**CONTENT, "schema_version": SCHEMA_VERSION, "seal": manifest.hash()}
    assert not manifest.edited


def test_where_no_run_has_begun_there_is_no_manifest(tmp_path: Path) -> None:
    assert find_manifest(Store(tmp_path)) is None
    with pytest.raises(UserError, match="no run has begun in it"):
        read_manifest(Store(tmp_path))


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "title": lambda content: content.update(title="Another"),
    "label": lambda content: content["attacks"]["a"].update(label="Stronger"),
    "hash of a shard": lambda content: content["cells"][0]["records"].__setitem__(0, "1" * 64),
    "method": lambda content: content["cells"][0].update(method="pgd, EOT 20"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_breaks_the_seal(tmp_path: Path, edit: str) -> None:
    assert read_manifest(written(tmp_path, EDITS[edit])).edited


def test_writing_again_seals_again(tmp_path: Path) -> None:
    store = written(tmp_path, EDITS["title"])
    write_manifest(store, read_manifest(store).document())
    manifest = read_manifest(store)
    assert manifest.title == "Another" and not manifest.edited


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "10 images, and 9 indices": lambda content: content["dataset"]["indices"].pop(),
    "an image twice": lambda content: content["dataset"]["indices"].__setitem__(0, 1),
    "pairing d/a appears twice": lambda content: content["cells"].append(content["cells"][0]),
    "a defense that is not among 'defenses'": lambda content: content["defenses"].clear(),
    "has 9 images, the dataset 10": lambda content: content["cells"][0].update(count=9),
    "shards of 5 images, the protocol 4": lambda content: content["cells"][0].update(shard=5),
    "3 shards, and 2 hashes": lambda content: content["cells"][0]["records"].pop(),
    "the suite is 'small', and 'other' as resolved": lambda content: content["resolved"].update(suite="other"),
    "the protocol's votes is 3, and 5": lambda content: content["resolved"]["protocol"].update(votes=5),
    "the dataset's split is 'test', and 'train'": lambda content: content["resolved"]["dataset"].update(split="train"),
}


@pytest.mark.parametrize("told", CONTRADICTIONS)
def test_what_is_said_in_two_ways_is_a_contradiction(tmp_path: Path, told: str) -> None:
    with pytest.raises(Contradiction, match=told):
        read_manifest(written(tmp_path, CONTRADICTIONS[told]))


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "'protocol.votes'": lambda content: content["protocol"].update(votes="3"),
    "'protocol.seed'": lambda content: content["protocol"].update(seed=True),
    "'dataset.count'": lambda content: content["dataset"].update(count=0),
    "'cells.0.key'": lambda content: content["cells"][0].pop("key"),
    "'suit'": lambda content: content.update(suit="small"),
}


@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_is_an_error_that_names_its_place(tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError, match=place) as refused:
        read_manifest(written(tmp_path, FAULTS[place]))
    assert not isinstance(refused.value, Contradiction)
    assert str(refused.value).startswith(str(tmp_path / "run.json"))


def test_results_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"do not fit into run\.json: 'cells\.0\.method'"):
        write_manifest(Store(tmp_path), {**CONTENT, "cells": [{**CONTENT["cells"][0], "method": "m" * 10**6}]})
    assert not (tmp_path / "run.json").exists()


def test_a_pairing_knows_its_shards_by_their_bounds_alone(tmp_path: Path) -> None:
    [cell] = read_manifest(written(tmp_path)).cells
    ranges = shard_ranges(cell.count, cell.shard)
    assert len(ranges) == cell.shards
    every = [(start, stop) for start in range(12) for stop in range(14)]
    assert [bounds for bounds in every if cell.has(*bounds)] == ranges
    assert [cell.recorded(*bounds) for bounds in [*ranges, (0, 5)]] == [HASH * 2, None, None, None]
