"""`harness merge`: directories of one suite become one, with the hashes they had, or are refused with what differs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import harness
from harness import cli
from harness.archive.layout import fault_of
from harness.errors import UserError
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.run import run
from harness.joining.run import join
from harness.reporting import report
from harness.results import diagnosis
from harness.results.diagnosis import Diagnosis
from harness.results.load import read_run
from harness.results.manifest import read_manifest
from harness.results.merge import MANY, merge
from harness.results.store import Store
from harness.suite import load_suite
from helpers.commands import command
from helpers.engines import CPU, Notes, contents, finish

Digests = dict[str, tuple[str | None, ...]]


def part(suite: Path, out: Path, only: str | None = None, shards: int | None = None) -> Path:
    """A directory with some pairings, or as much as a run has done when it is interrupted."""
    try:
        run(load_suite(suite, only=only), out, CPU, Notes(shards))
    except KeyboardInterrupt:
        assert shards
    return out


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def digests(out: Path) -> Digests:
    manifest, store = read_manifest(Store(out)), Store(out)
    found = {}
    for cell in manifest.cells:
        stored = store.cell(cell.defense, cell.attack, cell.key)
        found[cell.name] = tuple(stored.digest(*bounds) for bounds in stored.shards())
        assert cell.records is not None and found[cell.name] == tuple(filter(None, cell.records))
    return found


@pytest.fixture
def whole(small_suite: Path, tmp_path: Path) -> Path:
    finish(small_suite, tmp_path / "whole")
    return tmp_path / "whole"


def test_pairings_of_two_machines_become_one_run_that_is_verified_and_needs_nothing_more(
    small_suite: Path, tmp_path: Path, whole: Path
) -> None:
    here, there = part(small_suite, tmp_path / "here", "plain"), part(small_suite, tmp_path / "there", "noisy")
    before = files(here), files(there)
    done = join([here, there], tmp_path / "both")
    assert (done.copied, done.missing, done.errors, done.remarks) == (12, 0, 0, ())
    assert digests(tmp_path / "both") == digests(here) | digests(there)
    assert contents(small_suite, tmp_path / "both") == contents(small_suite, whole)
    both, alone = (report(out, "csv").replace(str(out), "") for out in (tmp_path / "both", whole))
    assert both == alone
    checked = harness.verify(tmp_path / "both", suite=small_suite, trust=True, device="cpu")
    assert {found.outcome for found in checked} == {"holds"} and len(checked) == 5, "run.json, and four pairings"
    assert finish(small_suite, tmp_path / "both").computed == 0
    assert (files(here), files(there)) == before, "the sources are only read"
    sessions = [set(map(str, read_manifest(Store(each)).sessions)) for each in (tmp_path / "both", here, there)]
    assert sessions[0] == sessions[1] | sessions[2]


def test_shards_of_one_pairing_are_put_together_and_a_run_computes_what_no_directory_has(
    small_suite: Path, tmp_path: Path, whole: Path
) -> None:
    here = part(small_suite, tmp_path / "here", "plain", shards=2)
    there = part(small_suite, tmp_path / "there", "plain/strong", shards=2)
    done = join([here, there], tmp_path / "both")
    assert (done.copied, done.missing) == (3, 3)
    assert finish(small_suite, tmp_path / "both").computed == 9
    assert contents(small_suite, tmp_path / "both") == contents(small_suite, whole)


def test_a_directory_that_exists_takes_in_what_it_lacks_and_a_second_time_nothing(
    small_suite: Path, tmp_path: Path, whole: Path
) -> None:
    here, there = part(small_suite, tmp_path / "here", "plain/weak"), part(small_suite, tmp_path / "there", shards=5)
    kept = digests(here)["plain/weak"]
    assert join([there, whole], here).copied == 9
    assert digests(here)["plain/weak"] == kept
    before = files(here)
    assert join([whole, there], here).copied == 0
    assert files(here) == before
    assert contents(small_suite, here) == contents(small_suite, whole)


def many_shards(suite: Path) -> Path:
    """The same suite in so many shards that a finished pairing is kept in merged files."""
    text = suite.read_text().replace("first: 10", f"first: {MANY + 2}").replace("shard: 4", "shard: 1")
    suite.write_text(text)
    return suite


def test_merged_files_are_copied_as_they_are(small_suite: Path, tmp_path: Path) -> None:
    suite = many_shards(small_suite)
    here, there = (
        part(suite, tmp_path / "here", "plain/weak"),
        part(suite, tmp_path / "there", "plain/strong", shards=9),
    )
    rest = part(suite, tmp_path / "rest", "plain/strong")
    stem = next((here / "cells/plain/weak").glob("*.parquet")).name
    join([there, here], tmp_path / "both")
    assert [path.name for path in (tmp_path / "both/cells/plain/weak").glob("*.parquet")] == [stem]
    assert digests(tmp_path / "both") == digests(here) | digests(there)
    join([rest], tmp_path / "both")
    assert len(list((tmp_path / "both/cells/plain/strong").glob("*.parquet"))) == 1 + 9
    found = digests(tmp_path / "both")["plain/strong"]
    assert found == (*digests(there)["plain/strong"], *digests(rest)["plain/strong"][9:])


def with_errors(suite: Path, out: Path, only: str, shards: list[tuple[int, int]]) -> None:
    """Replaces records by those of images that could not be attacked."""
    plan = load_suite(suite, only=only)
    (cell_run,) = pending_work(plan, Store(out), load_images(plan)[1], print)
    for bounds in shards:
        failed = [dict(vars(record), verdict="error", error="planted") for record in cell_run.shards[bounds] or ()]
        records = [type(record)(**facts) for record, facts in zip(cell_run.shards[bounds] or (), failed, strict=True)]
        cell_run.stored.write(*bounds, records, cell_run.stored.images(*bounds))
    merge(cell_run.stored, list(cell_run.shards))
    run(load_suite(suite, only=only), out, CPU, retry_errors=False)  # writes the manifest


@pytest.mark.parametrize("order", [0, 1])
def test_a_result_goes_before_an_error_wherever_it_lies(small_suite: Path, tmp_path: Path, order: int) -> None:
    suite = many_shards(small_suite)
    whole, here = (part(suite, tmp_path / name, "plain/weak") for name in ("whole", "here"))
    shutil.copytree(whole, tmp_path / "there")
    with_errors(suite, here, "plain/weak", [(0, 1), (1, 2)])
    with_errors(suite, tmp_path / "there", "plain/weak", [(1, 2), (2, 3)])
    done = join([here, tmp_path / "there"][:: 1 - 2 * order], tmp_path / "both")
    assert (done.copied, done.missing, done.errors) == (MANY + 2, 0, 1)
    assert run(load_suite(suite, only="plain/weak"), tmp_path / "both", CPU).computed == 1
    assert join([whole], here).copied == 2 and finish_of(suite, here) == finish_of(suite, tmp_path / "both")


def finish_of(suite: Path, out: Path) -> object:
    plan = load_suite(suite, only="plain/weak")
    (cell_run,) = pending_work(plan, Store(out), load_images(plan)[1], print)
    assert not cell_run.missing
    return [dict(vars(record), seconds=0) for record in cell_run.records]


def refusal(sources: list[Path], out: Path) -> str:
    with pytest.raises(UserError) as caught:
        join(sources, out)
    return str(caught.value)


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "argument": (lambda text: text.replace("eps: 1/16", "eps: 1/8"), "cells.plain/weak.arguments.eps: 1/16 -> 1/8"),
    "votes": (lambda text: text.replace("votes: 3", "votes: 5"), "protocol.votes: 3 -> 5"),
    "images": (lambda text: text.replace("first: 10", "first: 9"), "the indices of the images"),
    "suite": (lambda text: text.replace("suite: small", "suite: large"), "the suite is 'small' in the one"),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_another_suite_is_refused_with_what_differs(small_suite: Path, tmp_path: Path, name: str) -> None:
    change, expected = CHANGES[name]
    here = part(small_suite, tmp_path / "here", "plain/weak")
    small_suite.write_text(change(small_suite.read_text()))
    there = part(small_suite, tmp_path / "there", "noisy/weak")
    assert expected in refusal([here, there], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_other_code_is_refused_with_the_file(small_suite: Path, tmp_path: Path) -> None:
    here = part(small_suite, tmp_path / "here", "plain/weak")
    code = small_suite.with_name("fakes.py")
    code.write_text(code.read_text().replace("1.0", "1.5"))
    there = part(small_suite, tmp_path / "there", "plain/strong")
    assert "fakes.py (code of defense 'plain')" in refusal([here, there], tmp_path / "both")


def test_rows_that_only_one_suite_has_join(small_suite: Path, tmp_path: Path) -> None:
    here = part(small_suite, tmp_path / "here", "plain/weak")
    row = "  also: {type: ./fakes.py:NearestMean, strength: 2}\nattacks:"
    small_suite.write_text(small_suite.read_text().replace("attacks:", row))
    there = part(small_suite, tmp_path / "there", "also/weak")
    join([here, there], tmp_path / "both")
    assert finish(small_suite, tmp_path / "both").computed == 12


def forged(out: Path, suite: Path, change: Callable[[dict[str, object]], object], images: float = 0) -> None:
    """A shard whose second image has another record or other pixels, with all hashes made anew."""
    plan = load_suite(suite, only="plain/weak")
    (cell_run,) = pending_work(plan, Store(out), load_images(plan)[1], print)
    records, tensors = list(cell_run.shards[0, 4] or ()), cell_run.stored.images(0, 4)
    change(vars(records[1]))
    tensors["images"][1, 0, 0, 0] += images
    cell_run.stored.write(0, 4, records, tensors)
    manifest = out / "run.json"
    kept = manifest.read_text()
    manifest.unlink()
    run(plan, out, CPU)
    assert manifest.read_text() != kept


def test_two_results_of_one_image_are_refused_with_their_names(small_suite: Path, tmp_path: Path) -> None:
    here = part(small_suite, tmp_path / "here", "plain/weak")
    for name, change, moved, expected in (
        ("seconds", lambda record: record.update(seconds=9.0), 0, None),
        ("votes", lambda record: record.update(seed=5), 0, r"plain/weak, image 1: seed"),
        ("pixels", lambda record: None, 2**-20, "plain/weak, image 1: other adversarial images"),
    ):
        there = shutil.copytree(here, tmp_path / name)
        forged(there, small_suite, change, moved)  # type: ignore[arg-type]
        out = tmp_path / f"both-{name}"
        if expected is None:
            assert join([here, there], out).copied == 3
        else:
            assert expected in refusal([here, there], out) and not out.exists()


def test_damaged_edited_and_missing_directories_are_refused(small_suite: Path, tmp_path: Path) -> None:
    here, out = part(small_suite, tmp_path / "here", "plain/weak"), tmp_path / "both"
    assert "no run has begun" in refusal([here, tmp_path], out)
    assert "among the directories" in refusal([here], here)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    assert "is no run" in refusal([here], tmp_path / "mine")
    damaged = shutil.copytree(here, tmp_path / "damaged")
    next(damaged.rglob("*.safetensors")).write_bytes(b"nothing")
    assert "do not hold together: plain/weak" in refusal([here, damaged], out)
    edited = shutil.copytree(here, tmp_path / "edited")
    (edited / "run.json").write_text((here / "run.json").read_text().replace("A small suite", "A great suite"))
    assert "was edited" in refusal([here, edited], out)
    assert not out.exists()


def cell_files(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if name.startswith("cells/")}


def test_whatever_a_kill_leaves_is_a_valid_run_that_the_same_command_completes(
    small_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every file that is put in its place."""
    here, there = (
        part(small_suite, tmp_path / "here", "plain/weak"),
        part(small_suite, tmp_path / "there", "noisy/weak"),
    )
    replace, count = os.replace, 0
    for stop in range(100):
        out, left = tmp_path / f"both-{stop}", stop

        def stopping(source: object, target: object) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            replace(source, target)  # type: ignore[call-overload]

        monkeypatch.setattr(os, "replace", stopping)
        try:
            join([here, there], out)
        except KeyboardInterrupt:
            count += 1
        else:
            break
        finally:
            monkeypatch.setattr(os, "replace", replace)
        assert not [*out.rglob("*.tmp")]
        if stop:
            assert fault_of(read_run(out)) is None
        join([there, here], out) if stop % 2 else join([here, there], out)
        assert digests(out) == digests(here) | digests(there)
        assert cell_files(out) == cell_files(here) | cell_files(there)
    assert count == 2 + 2 * 6, "the manifest twice, and two files for each shard"


def test_a_full_disk_ends_in_a_message_and_the_same_command_goes_on(
    small_suite: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            join([whole], tmp_path / "both")
    assert join([whole], tmp_path / "both").copied == 12


@pytest.mark.long
def test_the_command_is_killed_at_any_moment_and_finished(small_suite: Path, tmp_path: Path, whole: Path) -> None:
    words = ["merge", str(whole), "--out", str(tmp_path / "both")]
    for signum in (signal.SIGKILL, signal.SIGTERM):
        child = command(*words)
        limit = time.monotonic() + 120
        while not (tmp_path / "both/run.json").exists() and time.monotonic() < limit:
            time.sleep(0.001)
        child.send_signal(signum)
        child.wait()
        assert "Traceback" not in child.printed()
    done = command(*words)
    assert done.wait() == 0, done.printed()
    assert contents(small_suite, tmp_path / "both") == contents(small_suite, whole)


def test_the_command_says_what_it_did_and_what_is_left(
    small_suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = part(small_suite, tmp_path / "here", "plain/weak", shards=1)
    with pytest.raises(SystemExit) as end:
        cli.main(["merge", str(here), "--out", str(tmp_path / "both")])
    shown = capsys.readouterr().out
    assert not end.value.code and "1 shards copied, 2 missing." in " ".join(shown.split())
    assert "harness run SUITE" in " ".join(shown.split())


def test_images_given_in_python_are_copied(tmp_path: Path) -> None:
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    for name, eps in (("a", 0.1), ("b", 0.2)):
        attack = {name: {"type": "noise", "norm": "Linf", "eps": eps}}
        harness.evaluate(model, attack, data=(images, labels), out=tmp_path / name, device="cpu", name="mine")
    assert join([tmp_path / "a", tmp_path / "b"], tmp_path / "both").copied == 2
    assert (tmp_path / "both/data.npz").read_bytes() == (tmp_path / "a/data.npz").read_bytes()
    shown = harness.load_results(tmp_path / "both").summary
    assert shown[shown["attack"].isin(["a", "b"])]["n"].tolist() == [6, 6]


def test_diagnoses_are_copied_and_one_that_differs_is_left_out(small_suite: Path, tmp_path: Path) -> None:
    runs = [part(small_suite, tmp_path / name, "plain/weak", shards=1) for name in ("here", "there")]
    facts = {"harness": "0", "key": "k", "suite": "small", "label": None, "attack": "weak", "threat": "Linf 1/16"}
    facts |= {"surrogate": None, "images": 4, "settings": {"gradient": "exact"}, "resolved": {}}
    for run_, defense, key in ((0, "plain", "k"), (1, "plain", "l"), (1, "noisy", "k")):
        diagnosis.write(runs[run_], Diagnosis(**facts | {"defense": defense, "key": key}))
    (remark,) = join(runs, tmp_path / "both").remarks
    assert str(runs[1] / "diagnose/plain.json") in remark
    assert [(found.defense, found.key) for found in diagnosis.read_all(tmp_path / "both")] == [
        ("noisy", "k"),
        ("plain", "k"),
    ]
