"""Verification tells another defense, other weights and other images from those of the results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from harness.evaluation.run import run
from harness.results.record import Record
from harness.results.store import Store
from harness.suite import load_suite
from helpers.verified import CPU, FILES, Tensors, edit_manifest, examined, finish, forge, manifest, own_files, reports

pytestmark = pytest.mark.slow


def test_records_of_another_defense_are_contradicted(small_suite: Path, tmp_path: Path) -> None:
    """The forger puts the answers of one defense under the name, the key and the seeds of another."""
    out = finish(small_suite)
    text = small_suite.read_text().replace('"./fakes.py:NearestMean"', '"./fakes.py:NearestMean", strength: -1')
    other = tmp_path / "other.yaml"
    other.write_text(text)
    run(load_suite(other, only="plain"), tmp_path / "forged", CPU)
    answers = Store(out).cell("plain", "weak", manifest(out)["cells"][0]["key"])
    taken = {r.index: r for b in answers.shards() for r in answers.read(*b) or []}

    def replaced(records: list[Record], tensors: Tensors) -> list[Record]:
        kept = ("clean_votes", "clean_margins", "adv_votes", "adv_margins", "verdict")
        return [dataclasses.replace(r, **{name: getattr(taken[r.index], name) for name in kept}) for r in records]

    forge(tmp_path / "forged", replaced)
    report = reports(tmp_path / "forged", only="plain/weak")["plain/weak"]
    assert report.outcome == "fails" and report.contradictions == 4 and report.equal == 6


def test_arguments_edited_in_the_manifest_do_not_fit_the_key(small_suite: Path) -> None:
    out = finish(small_suite)
    edit_manifest(out, lambda m: m["resolved"]["defenses"]["plain"]["arguments"].update(strength=2.0))
    report = reports(out, only="plain/weak")["plain/weak"]
    assert report.outcome == "not replayed" and "or the manifest was tampered with" in (report.unreplayed or "")


def test_a_budget_widened_in_the_manifest_is_found(small_suite: Path) -> None:
    out = finish(small_suite)
    edit_manifest(out, lambda m: m["cells"][0].update(threat="Linf 1/2"))
    assert "the attack's budget is Linf 1/16, the manifest says Linf 1/2" in reports(out)["plain/weak"].problems


def test_a_defense_whose_code_changed_is_not_replayed(small_suite: Path) -> None:
    out = finish(small_suite)
    fakes = small_suite.parent / "fakes.py"
    fakes.write_text(fakes.read_text().replace("0.1 * normal", "0.2 * normal"))
    report = reports(out)["noisy/weak"]
    assert report.outcome == "not replayed" and report.answered == 0 and report.within == 10
    assert "fakes.py (code of defense 'noisy'); fakes.py (code of attack 'weak')" in (report.unreplayed or "")


def test_other_weights_are_not_replayed_and_their_hashes_told(small_suite: Path) -> None:
    own_files(small_suite.parent)
    out = finish(small_suite, FILES)
    assert reports(out)["plain/weak"].outcome == "holds"
    before = manifest(out)["resolved"]["defenses"]["plain"]["arguments"]["weights"]["sha256"]
    own_files(small_suite.parent, "digits-at-linf")
    report = reports(out)["plain/weak"]
    assert report.outcome == "not replayed"
    assert f"defense 'plain': weights.sha256 was {before[:8]}, is " in (report.unreplayed or "")
    (small_suite.parent / "own.safetensors").unlink()
    report = reports(out)["plain/weak"]
    assert report.outcome == "not replayed" and "own.safetensors" in (report.unreplayed or "")


def test_another_dataset_is_found_and_an_absent_one_is_told(small_suite: Path) -> None:
    own_files(small_suite.parent)
    out = finish(small_suite, FILES)
    path = small_suite.parent / "own.npz"
    arrays = dict(np.load(path))
    arrays["images"][2, 0, 4, 4] = 1 - arrays["images"][2, 0, 4, 4]
    np.savez(path, **arrays)
    found = examined(out)
    assert found["run.json"].outcome == "fails" and found["plain/weak"].outcome == "not checked"
    assert "the images of 'npz' are not those of the results" in found["run.json"].problems[0]
    path.unlink()
    report = reports(out)["plain/weak"]
    assert report.outcome == "not checked" and "own.npz" in (report.unchecked or "")
