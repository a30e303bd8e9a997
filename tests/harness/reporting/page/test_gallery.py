"""The images behind the numbers: which are embedded, and what is said of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness import datasets
from harness.reporting.page import gallery
from harness.results.load import read_run
from harness.results.record import Record
from harness.results.store import Store
from helpers.page import COUNT, decoded

pytestmark = pytest.mark.slow


def test_the_explorer_decides_ties_and_errors_for_no_class(maker: Any, rec: Callable[..., Record]) -> None:
    records = [rec(0, adv="rrw"), rec(1, adv="rw"), rec(2, adv="r", verdict="error", error="x"), rec(3, adv="ww")]
    maker.cell("d", "a", records, stochastic=True)
    (pairing,) = gallery.gallery(read_run(maker.finish(votes=2)))["pairings"]
    assert [image["answer"] for image in pairing["images"]] == ["1", "tie", "error", "2"]
    assert [image["decided"] for image in pairing["images"]] == [True, False, False, True]


def test_pictures_are_the_stored_images(run: Path) -> None:
    found = gallery.gallery(read_run(run))
    stored = Store(run).cell("plain", "linf", "plain-linf").images(2, 4)["images"]
    shown = next(p for p in found["pairings"] if (p["defense"], p["attack"]) == ("plain", "linf"))["images"][2]
    assert np.array_equal(decoded(shown["adv"]), (stored[0, 0] * 255).round().numpy())
    clean = datasets.load("digits", "test").images[shown["index"], 0]
    assert np.array_equal(decoded(found["clean"][shown["index"]]), (clean * 255).round().numpy())
    assert shown["before"][0][1:] == [True, "+1.00"] and shown["after"][0][1:] == [False, "+0.50"]


def test_an_image_that_the_attack_left_alone_is_embedded_once(run: Path) -> None:
    images = gallery.gallery(read_run(run))["pairings"][0]["images"]
    assert images[0]["adv"] is None and images[0]["difference"] is None and images[1]["adv"]


def test_only_so_many_images_are_embedded_and_only_their_originals(run: Path) -> None:
    found = gallery.gallery(read_run(run), most=3)
    assert [len(pairing["images"]) for pairing in found["pairings"]] == [3, 3, 3]
    assert all(pairing["total"] == COUNT for pairing in found["pairings"]) and len(found["clean"]) == 3
    assert gallery.gallery(read_run(run), most=0)["clean"] == {}


def test_large_images_are_embedded_in_smaller_numbers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PIXELS", 3 * 2 * 3 * 2 * 64)
    assert [len(pairing["images"]) for pairing in gallery.gallery(read_run(run))["pairings"]] == [6, 6, 6]
    monkeypatch.setattr(gallery, "PIXELS", 0)
    assert [len(pairing["images"]) for pairing in gallery.gallery(read_run(run))["pairings"]] == [4, 4, 4]


def test_without_the_dataset_the_adversarial_images_are_shown_and_it_is_said(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    for change, words in (({"fingerprint": "other"}, "not the one"), ({"name": "npz"}, "was not on the machine")):
        changed = {**manifest, "dataset": {**manifest["dataset"], **change}}
        changed["resolved"]["dataset"]["name"] = changed["dataset"]["name"]
        (run / "run.json").write_text(json.dumps(changed))
        found = gallery.gallery(read_run(run))
        assert words in found["missing"] and found["clean"] == {}
        assert all(image["adv"] and not image["difference"] for image in found["pairings"][0]["images"])


def test_an_unfinished_pairing_shows_what_is_there(run: Path) -> None:
    for suffix in ("parquet", "safetensors"):
        (run / "cells" / "plain" / "linf" / f"00000-00002.{suffix}").unlink()
    shown = gallery.gallery(read_run(run))["pairings"][0]
    assert [image["index"] for image in shown["images"]] == [102, 103, 104, 105] and shown["total"] == COUNT


def test_every_image_leads_to_its_record(run: Path) -> None:
    (found,) = gallery.gallery(read_run(run), folder=run.parent)["pairings"][:1]
    for image in found["images"]:
        (words, address) = next(rest for name, *rest in image["facts"] if name == "Record")
        row, place = int(words.split()[1]), run.parent / unquote(address)
        assert pq.read_table(place).column("index")[row].as_py() == image["index"]
        assert words.endswith(f" of {place.relative_to(run).as_posix()}")
