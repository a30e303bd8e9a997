"""Verification sees through forged manifests, those too that were sealed anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import datasets
from harness.errors import UserError
from harness.reporting import report as rendered
from harness.results.load import read_run
from helpers.verified import call, edit_manifest, examined, finish, in_cell

pytestmark = pytest.mark.slow


def fewer_images(content: dict[str, Any]) -> None:
    """The worst images vanish from every part of the manifest but what the suite asked for."""
    content["dataset"] = {**content["dataset"], "count": 8, "indices": list(range(8))}
    digits = datasets.load("digits").select(range(8))
    content["dataset"]["fingerprint"] = datasets.fingerprint(digits.images, digits.labels)
    for cell in content["cells"]:
        cell.update(count=8, records=cell["records"][:2])


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str, str, str]] = {
    "method": (
        in_cell(method="autoattack, standard"),
        *("plain/weak", "fails", "the attack is 'noise', the manifest says 'autoattack, standard'"),
    ),
    "budget": (
        in_cell(threat="Linf 1/2"),
        *("plain/weak", "fails", "the attack's budget is Linf 1/16, the manifest says Linf 1/2"),
    ),
    "noise that the attack bears": (
        in_cell(least_cosine=0.1),
        *("plain/weak", "fails", "the attack asks for gradients of cosine 0.64, the manifest says 0.1"),
    ),
    "randomness": (
        lambda m: m["defenses"]["plain"].update(stochastic=True),
        *("plain/weak", "fails", "the defense is deterministic, the manifest says stochastic"),
    ),
    "determinism": (
        lambda m: m["defenses"]["noisy"].update(stochastic=False),
        *("noisy/weak", "fails", "image 0: the record has 3 votes on the clean image, where the manifest says 1"),
    ),
    "noise that the attacker is said to know": (
        lambda m: m["defenses"]["plain"].update(noise_seed=1),
        *("plain/weak", "fails", "the seed of the defense's noise is None, the manifest says 1"),
    ),
    "card": (
        lambda m: m["defenses"]["plain"].update(expected_accuracy=0.5),
        *("plain/weak", "fails", "the card's expected accuracy is None, the manifest says 0.5"),
    ),
    "fewer images": (
        fewer_images,
        "run.json",
        "fails",
        "the 8 images are not those that the suite chose from 'digits'",
    ),
    "a shard left out": (
        in_cell(records=[None, None, None]),
        *("plain/weak", "in part", "images 0 to 3 of the run are not in run.json"),
    ),
    "another shard's hash": (
        in_cell(records=["0" * 64] * 3),
        *("plain/weak", "fails", "images 0 to 3 of the run: these are not the records that run.json lists"),
    ),
    "a pairing left out": (lambda m: m["cells"].pop(0), "plain/weak", "no images", ""),
}


@pytest.mark.parametrize("forgery", MANIFESTS)
def test_each_forged_manifest_is_seen_through(small_suite: Path, forgery: str) -> None:
    change, name, outcome, told = MANIFESTS[forgery]
    out = finish(small_suite)
    edit_manifest(out, change, sealed=True)
    found = examined(out)
    lines = found[name].problems + found[name].gaps
    assert found[name].outcome == outcome and (not told or any(line.startswith(told) for line in lines)), lines
    assert name == "run.json" or found["run.json"].outcome == "holds"


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "label": lambda m: m["defenses"]["plain"].update(label="State of the art"),
    "title": lambda m: m.update(title="Another title"),
    "flags": in_cell(flags=["a remark"]),
    "rule of votes": lambda m: m["report"].update(vote="single"),
    "column left out": lambda m: m["report"].update(average=["weak"]),
    "hardware": lambda m: m["sessions"][0].update(device="Abacus"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_by_hand_breaks_the_seal(small_suite: Path, edit: str) -> None:
    out = finish(small_suite)
    edit_manifest(out, EDITS[edit])
    report = examined(out, replay=False)["run.json"]
    assert report.outcome == "fails" and "its hash does not match its content" in report.problems[0]
    assert "run.json was tampered with" in str(rendered(out, "md"))
    with pytest.raises(UserError, match="tampered with"):
        finish(small_suite)
    (out / "run.json").unlink()
    finish(small_suite)
    assert all(report.outcome == "holds" for report in examined(out).values())
    assert "tampered with" not in str(rendered(out, "md"))


def disagree(content: dict[str, Any]) -> None:
    for cell in content["cells"]:
        cell.update(count=8, records=cell["records"][:2])


def test_a_manifest_that_contradicts_itself_is_contradicted(small_suite: Path, capsys: Any) -> None:
    """Two images were left out of the pairings, and not of the dataset."""
    out = finish(small_suite)
    edit_manifest(out, disagree, sealed=False)
    assert call(str(out), "--no-replay") == 1
    assert "the pairing plain/weak has 8 images, the dataset 10" in " ".join(capsys.readouterr().out.split())


def test_a_manifest_of_an_earlier_version_could_not_be_verified_and_is_reported(small_suite: Path) -> None:
    out = finish(small_suite)

    def earlier(content: dict[str, Any]) -> None:
        del content["seal"]
        for cell in content["cells"]:
            del cell["records"]

    edit_manifest(out, earlier)
    found = examined(out)
    assert found.pop("run.json").outcome == "in part" and all(r.outcome == "holds" for r in found.values())
    assert read_run(out).pairings["plain", "weak"].finished
