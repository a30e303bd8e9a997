"""Certificates from a run to what `harness verify` says of them, sound and forged."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import harness
from harness.certification.smoothing import certify
from harness.results.record import Record
from harness.results.shard_files import arrays_of
from helpers.verified import Tensors, edit_manifest, finish, forge, reports

pytestmark = pytest.mark.slow

SUITE = """
suite: certified
dataset: {name: digits, first: 4}
protocol: {votes: 11, shard: 4}
defenses:
  s: {type: smoothed, sigma: 0.25, classifier: {type: undefended, weights: digits-cnn}}
attacks:
  weak: {type: noise, norm: L2, eps: 0.25}
certificates:
  smoothing: {n0: 20, n: 200}
"""
CELL = "s/smoothing"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("run") / "small.yaml", SUITE)


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """The results, to be spoiled, beside the suite."""
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def test_a_certificate_holds_and_its_radii_are_those_of_the_python_interface(out: Path) -> None:
    report = reports(out)[CELL]
    assert (report.outcome, report.images, report.problems) == ("holds", 4, [])
    results = harness.load_results(out)
    assert results.frame["attack"].unique().tolist() == ["weak"]
    found = results.certified
    assert found["index"].tolist() == [0, 1, 2, 3] and (found["radius"] > 0).any() and not found["fault"].any()
    (shard,) = (out / "cells" / "s" / "smoothing").glob("*.safetensors")
    stored = arrays_of(shard, ("radii",))["radii"]
    assert stored.tolist() == pytest.approx(found["radius"].tolist())
    curve = results.certified_accuracy
    assert (curve["certified"] <= curve["attacked"]).all()


def test_a_radius_that_its_counts_do_not_make_is_named(out: Path) -> None:
    def larger(records: list[Record], tensors: Tensors) -> list[Record]:
        tensors["radii"][1] += 0.1
        return records

    forge(out, larger, CELL)
    report = reports(out, replay=False)[CELL]
    assert report.outcome == "fails" and "image 1: the recorded radius is" in report.problems[0]


def test_counts_that_new_draws_do_not_give_are_named(out: Path) -> None:
    def better(records: list[Record], tensors: Tensors) -> list[Record]:
        counts = tensors["counts"]
        top = int(counts[1, 1].argmax())
        counts[1, 1] = 0
        counts[1, 1, top] = 200
        certified = certify(counts.numpy().astype(int), 200, sigma=0.25, alpha=0.001)
        tensors["radii"] = torch.from_numpy(certified.radii).float()
        return records

    forge(out, better, CELL)
    report = reports(out)[CELL]
    assert report.outcome == "fails" and report.problems[0].startswith("image 1: new draws have another class")


def test_more_draws_than_the_manifest_says_are_damage(out: Path) -> None:
    def more(records: list[Record], tensors: Tensors) -> list[Record]:
        tensors["counts"][1, 1, 0] += 1
        return records

    forge(out, more, CELL)
    assert any("an image has counts of 201 draws, of 200" in text for text in reports(out, replay=False)[CELL].problems)


def test_counts_that_were_left_out_are_missed(out: Path) -> None:
    def without(records: list[Record], tensors: Tensors) -> list[Record]:
        del tensors["counts"], tensors["radii"]
        return records

    forge(out, without, CELL)
    assert "image 1: it has no counts, and no error" in reports(out, replay=False)[CELL].problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["cells"][1]["certificate"].update(n=2000), "the manifest says n0=20 n=2000"),
        (lambda m: m["cells"][1]["certificate"].update(alpha=0.01), "image 0: the recorded radius is"),
        (
            lambda m: m["defenses"]["s"].update(smoothing_sigma=0.5),
            "sigma is 0.25, the manifest says 0.5",
        ),
    ],
)
def test_a_manifest_with_other_numbers_is_found_out(out: Path, change: Callable[..., None], message: str) -> None:
    edit_manifest(out, change, sealed=True)
    assert any(message in text for text in reports(out)[CELL].problems)


def test_an_attack_below_a_certified_radius_fails_the_verification_of_the_certificate(out: Path) -> None:
    """The votes of another attack on it are forged: every one is for a class that the certificate excludes."""

    def fallen(records: list[Record], tensors: Tensors) -> list[Record]:
        wrong = (records[0].label + 1) % 10
        return [
            dataclasses.replace(records[0], verdict="fooled", adv_votes=[wrong] * 11, adv_margins=[-1.0] * 11),
            *records[1:],
        ]

    forge(out, fallen, "s/weak")
    report = reports(out, replay=False)[CELL]
    assert report.outcome == "fails"
    assert any(text.startswith("FAULT: image 0 is certified up to") for text in report.problems)
