"""Verification believes sound results, and says what of them it could not examine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.evaluation.run import run
from harness.suite import load_suite
from helpers.verified import CARRIED, CPU, FLOWS, NESTED, edit_manifest, finish, reports

pytestmark = pytest.mark.slow


def test_a_sound_run_holds_bit_by_bit(small_suite: Path) -> None:
    out = finish(small_suite)
    found = reports(out)
    assert list(found) == ["plain/weak", "plain/strong", "noisy/weak", "noisy/strong"]
    for report in found.values():
        assert report.outcome == "holds" and not report.problems
        assert report.images == report.within == report.equal == report.total == 10
        assert report.recorded == report.replayed and report.moved == 0


@pytest.mark.parametrize("text", [FLOWS, NESTED, CARRIED], ids=["flows", "nested attacks", "transferred images"])
def test_runs_of_every_kind_of_attack_hold(small_suite: Path, text: str) -> None:
    found = reports(finish(small_suite, text)).values()
    assert found and all(report.outcome == "holds" and report.equal == 4 for report in found)


def test_a_default_of_another_type_than_its_annotation_holds(small_suite: Path) -> None:
    """A whole number as the default of a float is hashed as it stands, and would come back from YAML as a float."""
    fakes = small_suite.parent / "fakes.py"
    fakes.write_text(fakes.read_text().replace("strength: float = 1.0", "strength: float = 1"))
    assert reports(finish(small_suite), only="plain/weak")["plain/weak"].outcome == "holds"


def test_verdicts_hold_at_another_batch_size(small_suite: Path) -> None:
    found = reports(finish(small_suite), batch_size=3)
    assert all(r.outcome == "holds" and r.contradictions == 0 and r.moved < 1e-5 for r in found.values())


def test_only_limit_and_no_replay_choose_what_is_examined(small_suite: Path) -> None:
    out = finish(small_suite)
    assert list(reports(out, only="noisy")) == ["noisy/weak", "noisy/strong"]
    [report] = reports(out, only="plain/weak", limit=5).values()
    assert (report.images, report.total) == (8, 8)
    (small_suite.parent / "fakes.py").unlink()
    assert all(r.outcome == "holds" and r.answered == 0 and r.within == 10 for r in reports(out, replay=False).values())


def test_what_was_deleted_could_not_be_verified(small_suite: Path) -> None:
    out = finish(small_suite)
    (out / "cells/plain/weak/00004-00008.parquet").unlink()
    shutil.rmtree(out / "cells/plain/strong")
    found = reports(out)
    assert (found["plain/weak"].images, found["plain/weak"].outcome) == (6, "in part")
    assert found["plain/weak"].gaps == ["images 4 to 7 of the run are missing, though run.json lists them"]
    assert found["plain/strong"].outcome == "no images"


def test_a_pairing_that_was_never_run_could_not_be_verified(small_suite: Path) -> None:
    run(load_suite(small_suite, only="plain/weak"), small_suite.parent / "out", CPU)
    found = reports(small_suite.parent / "out")
    assert {name: report.outcome for name, report in found.items()} == {
        "plain/weak": "holds",
        **dict.fromkeys(["plain/strong", "noisy/weak", "noisy/strong"], "no images"),
    }


def test_shards_that_a_killed_run_left_are_no_contradiction(small_suite: Path) -> None:
    """The manifest was written before them: what it does not list could not be verified until the run is finished."""
    out = finish(small_suite)
    edit_manifest(out, lambda m: m["cells"][0].update(records=[None] * 3), sealed=True)
    report = reports(out)["plain/weak"]
    assert report.outcome == "in part" and report.images == report.equal == 10
    assert (
        report.gaps[0] == "images 0 to 3 of the run are not in run.json, as after a run that was killed; run it again"
    )
    finish(small_suite)
    assert reports(out)["plain/weak"].outcome == "holds"


def test_images_that_ended_in_errors_prove_nothing(small_suite: Path) -> None:
    weak = 'weak: {type: "./fakes.py:Noise", eps: 1/16}'
    out = finish(small_suite, small_suite.read_text().replace(weak, 'weak: {type: "./fakes.py:Crash"}'))
    report = reports(out, only="plain/weak")["plain/weak"]
    assert report.outcome == "in part" and report.errors == 10 and report.answered == report.recorded == 0
    assert reports(out, only="plain/weak", replay=False)["plain/weak"].outcome == "in part"
