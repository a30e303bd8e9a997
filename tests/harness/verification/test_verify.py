"""Verification believes sound results, and names every way in which forged ones are false."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness import cli, datasets
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.errors import UserError
from harness.evaluation.run import run
from harness.predict import predict_votes
from harness.process.signals import Stopped
from harness.reporting import report as rendered
from harness.results.load import read_run
from harness.results.manifest import Manifest
from harness.results.record import Record
from harness.results.store import Store
from harness.suite import load_suite
from harness.suite.cell_key import cell_key, component_hash
from harness.verification import CellReport, verify
from harness.verification.replay import ReplayedPredictions, ask_again, compared

CPU = torch.device("cpu")
Tensors = dict[str, Tensor]
Forge = Callable[[list[Record], Tensors], list[Record]]

FLOWS = """
suite: flows
dataset: {name: digits, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: "./fakes.py:NearestMean"}
attacks:
  stadv: {bound: 0.1, steps: 2}
"""

FILES = """
suite: files
dataset: {name: npz, path: own.npz, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: undefended, weights: ./own.safetensors}
attacks:
  weak: {type: "./fakes.py:Noise", eps: 1/16}
"""

NESTED = """
suite: nested
dataset: {name: digits, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: "./fakes.py:NearestMean", strength: 1}
attacks:
  worst: {type: worst_of, norm: Linf, eps: 0.1, attacks: [{type: pgd, steps: 1}, {type: noise}]}
"""

CARRIED = """
suite: carried
dataset: {name: digits, first: 4}
protocol: {votes: 2, shard: 4}
defenses:
  noisy: {type: "./fakes.py:Noisy"}
  plain: {type: "./fakes.py:NearestMean"}
attacks:
  carried: {type: transfer, norm: Linf, eps: 0.9, from: plain, attack: own}
  own: {type: "./fakes.py:Noise", eps: 0.9}
pairings:
  - {defense: noisy, attack: carried}
  - {defense: plain, attack: own}
"""


def finish(suite: Path, text: str | None = None) -> Path:
    """A finished run beside its suite."""
    if text is not None:
        suite.write_text(text)
    run(load_suite(suite), suite.parent / "out", CPU)
    return suite.parent / "out"


def reports(out: Path, **options: Any) -> dict[str, CellReport]:
    """Of the pairings."""
    found = examined(out, **options)
    del found["run.json"]
    return found


def examined(out: Path, **options: Any) -> dict[str, CellReport]:
    return {r.name: r for r in verify(out, CPU, **{"suite": out.parent / "small.yaml", "trust": True, **options})}


def forge(out: Path, change: Forge, cell: str = "plain/weak", bounds: tuple[int, int] = (0, 4)) -> None:
    """Rewrites a shard as whoever can compute hashes would."""
    facts = next(c for c in manifest(out)["cells"] if f"{c['defense']}/{c['attack']}" == cell)
    stored = Store(out).cell(facts["defense"], facts["attack"], facts["key"])
    tensors = stored.images(*bounds)
    records = change(stored.read(*bounds) or [], tensors)
    stored.write(*bounds, records, tensors)
    edit_manifest(out, lambda m: relist(out, m), sealed=True)


def relist(out: Path, content: dict[str, Any]) -> None:
    for cell in content["cells"]:
        stored = Store(out).cell(cell["defense"], cell["attack"], cell["key"])
        starts = range(0, cell["count"], cell["shard"])
        cell["records"] = [stored.digest(at, min(at + cell["shard"], cell["count"])) for at in starts]


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def edit_manifest(out: Path, change: Callable[[dict[str, Any]], object], sealed: bool = False) -> None:
    """sealed: as whoever can compute hashes would."""
    content = manifest(out)
    change(content)
    if sealed:
        content["seal"] = Manifest.model_validate(content).hash()
    (out / "run.json").write_text(json.dumps(content))


def own_files(folder: Path, weights: str = "digits-cnn") -> None:
    """A dataset and a checkpoint of the user's, for the suite FILES."""
    data = datasets.load("digits")
    np.savez(folder / "own.npz", images=data.images[:6].numpy(), labels=data.labels[:6].numpy(), classes=data.classes)
    for suffix in ("safetensors", "yaml"):
        shutil.copy(str(resources.files("defenses") / f"zoo/{weights}.{suffix}"), folder / f"own.{suffix}")


# Sound results


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
    assert all(r.outcome == "holds" and r.asked == 0 and r.within == 10 for r in reports(out, replay=False).values())


def test_what_was_deleted_could_not_be_verified(small_suite: Path) -> None:
    out = finish(small_suite)
    (out / "cells/plain/weak/00004-00008.parquet").unlink()
    shutil.rmtree(out / "cells/plain/strong")
    found = reports(out)
    assert (found["plain/weak"].images, found["plain/weak"].outcome) == (6, "in part")
    assert found["plain/weak"].gaps == ["images 4 to 7 of the run are not there, though run.json lists them"]
    assert found["plain/strong"].outcome == "nothing there"


def test_a_pairing_that_was_never_run_could_not_be_verified(small_suite: Path) -> None:
    run(load_suite(small_suite, only="plain/weak"), small_suite.parent / "out", CPU)
    found = reports(small_suite.parent / "out")
    assert {name: report.outcome for name, report in found.items()} == {
        "plain/weak": "holds",
        **dict.fromkeys(["plain/strong", "noisy/weak", "noisy/strong"], "nothing there"),
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
    assert report.outcome == "in part" and report.errors == 10 and report.asked == report.recorded == 0
    assert reports(out, only="plain/weak", replay=False)["plain/weak"].outcome == "in part"


# Forgeries, each with its hashes recomputed


def pushed(records: list[Record], tensors: Tensors) -> list[Record]:
    value = tensors["images"][1, 0, 3, 3].item()
    tensors["images"][1, 0, 3, 3] = value + (0.5 if value < 0.5 else -0.5)
    return records


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
    "label edited": (one(label=3), "image 1: the record speaks of image 1 of class 3; it is image 1 of class "),
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
        f"{SHARD}the images beside 00000-00004.parquet are none of this shard: ",
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
    out = finish(small_suite)

    def all_robust(records: list[Record], tensors: Tensors) -> list[Record]:
        return [
            dataclasses.replace(r, adv_votes=[r.label] * 3, adv_margins=[1e-6] * 3, verdict="robust") for r in records
        ]

    forge(out, all_robust, "noisy/strong")
    report = reports(out, only="noisy/strong")["noisy/strong"]
    assert report.outcome == "fails" and report.contradictions >= 1 and report.borderline == 0
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


def test_damage_without_forged_hashes_is_found(small_suite: Path) -> None:
    out = finish(small_suite)
    path = out / "cells/plain/weak/00000-00004.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    report = reports(out, only="plain/weak")["plain/weak"]
    assert report.outcome == "fails" and report.images == 6
    assert report.problems == [
        "images 0 to 3 of the run: the images beside 00000-00004.parquet cannot be read "
        "(its header says another size than the file has)"
    ]


# Other defenses, other images


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
    assert report.outcome == "not replayed" and "or the manifest was edited" in (report.unreplayed or "")


def test_a_budget_widened_in_the_manifest_is_found(small_suite: Path) -> None:
    out = finish(small_suite)
    edit_manifest(out, lambda m: m["cells"][0].update(threat="Linf 1/2"))
    assert "the attack's budget is Linf 1/16, the manifest says Linf 1/2" in reports(out)["plain/weak"].problems


def test_a_defense_whose_code_changed_is_not_replayed(small_suite: Path) -> None:
    out = finish(small_suite)
    fakes = small_suite.parent / "fakes.py"
    fakes.write_text(fakes.read_text().replace("0.1 * normal", "0.2 * normal"))
    report = reports(out)["noisy/weak"]
    assert report.outcome == "not replayed" and report.asked == 0 and report.within == 10
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


# Forged manifests, each sealed anew


def in_cell(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["cells"][0].update(changes)


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
    "randomness": (
        lambda m: m["defenses"]["plain"].update(stochastic=True),
        *("plain/weak", "fails", "the defense is deterministic, the manifest says stochastic"),
    ),
    "determinism": (
        lambda m: m["defenses"]["noisy"].update(stochastic=False),
        *("noisy/weak", "fails", "image 0: the record has 3 votes on the clean image, where the manifest says 1"),
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
    "a pairing left out": (lambda m: m["cells"].pop(0), "plain/weak", "nothing there", ""),
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
    assert report.outcome == "fails" and "its hash does not hold" in report.problems[0]
    assert "run.json was edited after it was written" in str(rendered(out, "md"))
    with pytest.raises(UserError, match="edited after it was written"):
        finish(small_suite)
    (out / "run.json").unlink()
    finish(small_suite)
    assert all(report.outcome == "holds" for report in examined(out).values())
    assert "was edited" not in str(rendered(out, "md"))


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


# The remarks of gates


SATURATED = """
suite: saturated
dataset: {name: digits, first: 8}
protocol: {shard: 8, gates: POLICY}
defenses:
  scaled: {type: "./fakes.py:Scaled"}
attacks:
  weak: {type: noise, norm: Linf, eps: 0.1}
"""

SCALED = """

class Scaled(NearestMean):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).softmax(1)
"""


def with_gates(suite: Path, policy: str) -> Path:
    fakes = suite.parent / "fakes.py"
    fakes.write_text(fakes.read_text() + SCALED)
    return finish(suite, SATURATED.replace("POLICY", policy))


def test_a_gate_s_remark_that_was_taken_out_is_put_back(small_suite: Path) -> None:
    out = with_gates(small_suite, "mark")
    flags = manifest(out)["cells"][0]["flags"]
    assert any(flag.startswith("logits, not probabilities") for flag in flags)
    assert reports(out)["scaled/weak"].outcome == "holds"
    edit_manifest(out, in_cell(flags=[]), sealed=True)
    report = reports(out)["scaled/weak"]
    assert report.outcome == "fails" and report.problems == [
        f"a gate finds, and the manifest does not say: {flag}" for flag in flags
    ]


def test_a_remark_that_no_gate_makes_could_not_be_verified(small_suite: Path) -> None:
    out = finish(small_suite)
    edit_manifest(out, in_cell(flags=["batch independence: row 3 is another"]), sealed=True)
    report = reports(out)["plain/weak"]
    assert report.outcome == "in part" and not report.problems
    assert report.gaps == ["the manifest's remark is not made here: batch independence: row 3 is another"]


def test_a_run_without_gates_holds_with_what_they_find_now(small_suite: Path) -> None:
    report = reports(with_gates(small_suite, "off"))["scaled/weak"]
    assert report.outcome == "holds" and report.remarks[0].startswith("the run's gates were off; here they find: ")


# Code of others


PLANTED = """
import pathlib
pathlib.Path({mark!r}).write_text("it ran")
"""


def test_nothing_of_others_runs_without_trust(small_suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, mark = finish(small_suite), small_suite.parent / "mark"
    fakes = small_suite.parent / "fakes.py"
    fakes.write_text(fakes.read_text() + PLANTED.format(mark=str(mark)))
    for report in reports(out, trust=False).values():
        assert report.outcome == "not replayed" and report.within == 10
        assert report.unreplayed in [
            f"it names code (./fakes.py:{cls}); add --trust to run it" for cls in ("NearestMean", "Noisy")
        ]
    assert call(str(out), "--suite", str(small_suite)) == 3
    assert "add --trust" in " ".join(capsys.readouterr().out.split())
    for command in (["report", str(out)], ["report", str(out), "--format", "html"], ["compare", str(out)]):
        with contextlib.suppress(SystemExit):
            cli.main(command)
    assert not mark.exists()
    reports(out)
    assert mark.exists()


INNER = """
suite: inner
dataset: {name: digits, first: 2}
protocol: {shard: 2}
defenses:
  front: {type: diffpure, weights: digits-ncsnpp, classifier: {type: "./fakes.py:NearestMean"}, t_star: 0.02, dt: 0.01}
  own: {type: undefended, weights: own.safetensors}
attacks:
  weak: {type: noise, norm: Linf, eps: 0.1}
"""


def test_code_inside_an_argument_or_a_card_is_code_of_others(small_suite: Path) -> None:
    own_files(small_suite.parent)
    (small_suite.parent / "net.py").write_text("from defenses.networks.cnn import CNN\n\nclass Net(CNN):\n    pass\n")
    card = small_suite.parent / "own.yaml"
    card.write_text(card.read_text().replace("type: cnn", 'type: "./net.py:Net"'))
    out = finish(small_suite, INNER)
    assert all(report.outcome == "holds" for report in reports(out).values())
    found = reports(out, trust=False)
    assert "it names code (./fakes.py:NearestMean)" in (found["front/weak"].unreplayed or "")
    assert "it names code (./net.py:Net)" in (found["own/weak"].unreplayed or "")


def test_a_cell_s_key_is_made_as_the_run_makes_it(small_suite: Path) -> None:
    """Independent of `rebuild`: from the suite itself."""
    out = finish(small_suite)
    cell = load_suite(small_suite).cells[0]
    claims = {"votes": 3, "seed": 0, "shard": 4}
    parts = component_hash(cell.defense), component_hash(cell.attack), manifest(out)["dataset"]["fingerprint"]
    assert manifest(out)["cells"][0]["key"] == cell_key(*parts, claims)


# Borderline


class Edge(Defense):
    """Two classes that differ by one millionth of a third: which one wins depends on the batch, as rounding does."""

    num_classes = 3

    def classify(self, x: Tensor) -> Tensor:
        edge = torch.full((len(x), 1), 1e-6 * (len(x) - 2.5))
        return torch.cat([edge, torch.zeros_like(edge), -torch.ones_like(edge)], 1)


def replay(recorded_batch: int, batch: int, label: int) -> tuple[Record, ReplayedPredictions]:
    images = Images(torch.arange(4), torch.rand(4, 1, 2, 2), torch.full((4,), label))
    defense, seeds = Edge(), torch.arange(4)
    then = predict_votes(defense, images.x, images.y, seeds, votes=1, batch_size=recorded_batch)
    votes, margins = then.votes[:, 0].tolist(), then.margins[:, 0].tolist()
    record = Record(0, label, "robust", votes, votes, margins, margins, 0, 0, 0, None, 0, 0, 0, 0, 0)
    return record, ask_again(defense, images, seeds, votes=1, batch_size=batch)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_flip_that_rounding_explains_is_borderline(label: int) -> None:
    record, answers = replay(4, 2, label)
    assert record.adv_votes == [0] and answers.votes[:, 0].tolist() == [1]
    assert compared(record, answers, 0).sameness == compared(record, answers, 0, clean=True).sameness == "borderline"
    assert compared(record, replay(4, 4, label)[1], 0).sameness == "equal"


@pytest.mark.parametrize(
    "changes", [{"adv_margins": [0.5]}, {"adv_votes": [2]}, {"adv_votes": [-1]}, {"adv_votes": [9]}]
)
def test_a_flip_that_rounding_does_not_explain_is_a_contradiction(changes: dict[str, Any]) -> None:
    record, answers = replay(4, 2, 0)
    assert compared(dataclasses.replace(record, **changes), answers, 0).sameness == "contradiction"


def test_another_number_of_draws_is_a_contradiction() -> None:
    record, answers = replay(4, 4, 0)
    assert compared(dataclasses.replace(record, adv_votes=[0, 0]), answers, 0).sameness == "contradiction"


# The command


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", *arguments, "--device", "cpu"])
    return int(ended.value.code or 0)


def test_the_status_tells_what_came_of_it(small_suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = finish(small_suite)
    options = [str(out), "--suite", str(small_suite), "--trust"]
    assert call(*options) == 0
    assert "plain/weak" in capsys.readouterr().out
    assert call(str(out), "--no-replay") == 0 and "budgets hold" in capsys.readouterr().out
    assert call(str(out), "--only", "plain/weak", "--trust") == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "not replayed: './fakes.py:NearestMean'" in shown and "--suite" in shown
    forge(out, pushed)
    assert call(*options) == 1 and "plain/weak: image 1: out of budget" in capsys.readouterr().out
    assert call(str(out), "--only", "plain/week") == 2 and "'plain/weak'" in capsys.readouterr().err
    assert call(str(small_suite.parent / "nowhere")) == 2


@pytest.mark.parametrize("lost", ["resolved", "dataset", "protocol", "cells"])
def test_a_manifest_that_lacks_something_is_refused(small_suite: Path, lost: str) -> None:
    out = finish(small_suite)
    edit_manifest(out, lambda m: m.pop(lost))
    assert call(str(out)) == 2


def test_stopping_shows_how_far_it_came(
    small_suite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = finish(small_suite), []

    def stop(*arguments: Any, **options: Any) -> ReplayedPredictions:
        asked.append(arguments)
        if len(asked) > 4:
            raise Stopped(signal.SIGINT)
        return ask_again(*arguments, **options)

    monkeypatch.setattr("harness.verification.run.ask_again", stop)
    assert call(str(out), "--suite", str(small_suite), "--trust") == 130
    assert "8/10" in capsys.readouterr().out
