"""Verification names what is false in forged records and images, though every hash was computed anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import datasets
from harness.results.record import Record
from helpers.verified import COUNTED, FLOWS, Forge, Tensors, finish, forge, pushed, reports

pytestmark = pytest.mark.slow


def pushed_and_measured(records: list[Record], tensors: Tensors) -> list[Record]:
    tensors["images"][1] = 1 - tensors["images"][1]
    return records


def out_of_range(records: list[Record], tensors: Tensors) -> list[Record]:
    tensors["images"][1, 0, 0, 0] = -0.01
    return records


def not_finite(records: list[Record], tensors: Tensors) -> list[Record]:
    tensors["images"][1, 0, 0, 0] = torch.nan
    return records


def nearer(records: list[Record], tensors: Tensors) -> list[Record]:
    tensors["images"][1] = 0.5 * tensors["images"][1] + 0.5 * datasets.load("digits").images[1]
    return records


def one(**changes: Any) -> Forge:
    def change(records: list[Record], tensors: Tensors) -> list[Record]:
        return [records[0], dataclasses.replace(records[1], **changes), *records[2:]]

    return change


SHARD = "images 0 to 3 of the run: "
FORGERIES: dict[str, tuple[Forge, str]] = {
    "image pushed": (pushed, "image 1: out of budget: Linf 0."),
    "image replaced": (pushed_and_measured, "image 1: out of budget: Linf 1, where 1/16 is allowed"),
    "image leaves the range": (out_of_range, "image 1: the adversarial image leaves [0, 1]: it spans -0.01"),
    "image not finite": (not_finite, "image 1: the adversarial image is not finite"),
    "image weakened": (nearer, "image 1: the record says linf 0.0"),
    "distance edited": (one(l2=0.001), "image 1: the record says l2 0.001, its image has 0."),
    "flow invented": (one(flow=0.1), "image 1: the record says flow 0.1, its image has nothing"),
    "violation edited": (one(violation=0.5), "image 1: the record says that the attack's image was discarded"),
    "label edited": (one(label=3), "image 1: the record is about image 1 of class 3; this is image 1 of class "),
    "verdict edited": (one(verdict="fooled"), "image 1: the record says fooled, its votes ["),
    "votes dropped": (one(adv_votes=[], adv_margins=[]), "image 1: the record says robust, without a vote"),
    "votes without margins": (one(adv_votes=[]), f"{SHARD}00000-00004.parquet: a record has 0 votes and 1 margins"),
    "votes added": (one(adv_votes=[3] * 2, adv_margins=[1.0] * 2), "image 1: the record has a vote for class 3 with"),
    "margin turned": (one(adv_margins=[-1.0]), "image 1: the record has a vote for class "),
    "margin raised": (one(adv_margins=[50.0]), "image 1, adversarial image: margin 50, replayed "),
    "clean margin raised": (one(clean_margins=[50.0]), "image 1, clean image: margin 50, replayed "),
    "passes invented": (one(forwards=-1), f"{SHARD}00000-00004.parquet: a record has the forwards -1"),
    "flagged": (one(flags=["violation"]), "image 1: the record says violation 0 and has the flags ['violation']"),
    "seed edited": (one(seed=1), "image 1: the record's seed is not the one"),
    "row dropped": (
        lambda records, tensors: records[1:],
        f"{SHARD}00000-00004.parquet cannot be read (3 records for 4 images)",
    ),
    "nothing in a field": (one(linf=None), f"{SHARD}00000-00004.parquet: a record has no 'linf'"),
    "image renamed": (
        lambda records, tensors: tensors.update(pictures=tensors.pop("images")) or records,
        f"{SHARD}the images beside 00000-00004.parquet do not belong to this shard: ",
    ),
    "image of another shape": (
        lambda records, tensors: tensors.update(images=tensors["images"][..., :4]) or records,
        f"{SHARD}'images' has the shape (4, 1, 8, 4)",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_each_forgery_is_named(small_suite: Path, forgery: str) -> None:
    change, told = FORGERIES[forgery]
    out = finish(small_suite)
    forge(out, change)
    found = reports(out, only="plain")
    assert found["plain/weak"].outcome == "fails"
    assert any(problem.startswith(told) for problem in found["plain/weak"].problems), found["plain/weak"].problems
    assert found["plain/strong"].outcome == "holds"


def test_edited_votes_are_contradicted_by_the_replay(small_suite: Path) -> None:
    strong = '{type: "./fakes.py:Noise", eps: 0.9}'
    out = finish(small_suite, small_suite.read_text().replace(strong, "{type: pgd, norm: Linf, eps: 0.5, steps: 5}"))

    def all_robust(records: list[Record], tensors: Tensors) -> list[Record]:
        return [
            dataclasses.replace(r, adv_votes=[r.label] * 3, adv_margins=[1e-6] * 3, verdict="robust") for r in records
        ]

    forge(out, all_robust, "noisy/strong")
    report = reports(out, only="noisy/strong")["noisy/strong"]
    assert report.outcome == "fails" and report.contradictions == 4 and report.borderline == 0
    assert report.recorded > report.replayed
    assert any("adversarial image: voted [" in problem and "replayed [" in problem for problem in report.problems)


def test_edited_votes_on_clean_images_are_contradicted(small_suite: Path) -> None:
    out = finish(small_suite)
    wrong = {"clean_margins": [-0.1]}
    forge(out, lambda records, _: [dataclasses.replace(r, clean_votes=[(r.label + 1) % 10], **wrong) for r in records])
    report = reports(out, only="plain/weak")["plain/weak"]
    assert report.contradictions == 4 and "clean image: voted" in report.problems[0]


def test_a_dishonest_flow_is_found(small_suite: Path) -> None:
    out = finish(small_suite, FLOWS)

    def halved(records: list[Record], tensors: Tensors) -> list[Record]:
        tensors["flow"] /= 2
        return [dataclasses.replace(r, flow=(r.flow or 0) / 2) for r in records]

    forge(out, halved, "plain/stadv")
    report = reports(out)["plain/stadv"]
    assert report.within < 4 and "image 0: the adversarial image is not the warp of its flow" in report.problems


L0 = {
    "all pixels changed": (pushed_and_measured, "image 1: out of budget: L0 64, where 20 is allowed"),
    "count edited": (one(l0=21.0), "image 1: the record says l0 21, its image has "),
    "count left out": (one(l0=None), "image 1: the record says l0 nothing, its image has "),
}


@pytest.mark.parametrize("forgery", L0)
def test_a_dishonest_count_of_changed_values_is_found(small_suite: Path, forgery: str) -> None:
    change, told = L0[forgery]
    out = finish(small_suite, COUNTED)
    assert reports(out)["plain/sparse"].outcome == "holds"
    forge(out, change, "plain/sparse")
    problems = reports(out)["plain/sparse"].problems
    assert any(problem.startswith(told) for problem in problems), problems


def test_damage_without_forged_hashes_is_found(small_suite: Path) -> None:
    out = finish(small_suite)
    path = out / "cells/plain/weak/00000-00004.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    report = reports(out, only="plain/weak")["plain/weak"]
    assert report.outcome == "fails" and report.images == 6
    assert report.problems == [
        "images 0 to 3 of the run: the images beside 00000-00004.parquet cannot be read "
        "(the size in its header differs from the size of the file)"
    ]
