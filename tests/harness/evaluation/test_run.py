"""Runs finish what was begun, compute nothing twice, and never mix claims."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from harness.cli.run_progress import Display
from harness.errors import UserError
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.run import run
from harness.evaluation.write_manifest import all_remarks
from harness.reporting import summarise
from harness.results.load import read_run as read_results
from harness.results.record import Record
from harness.results.store import Store
from harness.suite import load_suite
from helpers.commands import command

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def execute(suite: Path, out: Path, **options: Any) -> tuple[int, str]:
    """Shards computed, and what was shown."""
    shown = io.StringIO()
    done = run(load_suite(suite, **options), out, CPU, Display(Console(file=shown, width=200)))
    return done.computed, shown.getvalue()


def results(suite: Path, out: Path) -> dict[str, tuple[list[dict[str, Any]], list[Tensor]]]:
    """By pairing: records without their times, and images."""
    plan = load_suite(suite)
    found = {}
    for work in pending_work(plan, Store(out), load_images(plan)[1], lambda note: None):
        records = [timeless(record) for shard in work.shards.values() for record in shard or []]
        found[work.name] = records, [work.stored.images(*bounds)["images"] for bounds in work.stored.shards()]
    return found


def timeless(record: Record) -> dict[str, Any]:
    return asdict(record) | {"seconds": 0}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, (records, images) in a.items():
        assert records == b[name][0]
        assert all(torch.equal(x, y) for x, y in zip(images, b[name][1], strict=True))


def test_a_run_makes_every_record_and_a_second_run_does_nothing(small_suite: Path, tmp_path: Path) -> None:
    done, shown = execute(small_suite, tmp_path / "out")
    assert done == 4 * 3
    assert "noisy/strong: 10/10 images, clean" in shown
    found = results(small_suite, tmp_path / "out")
    assert {name: [r["index"] for r in records] for name, (records, _) in found.items()} == {
        f"{defense}/{attack}": list(range(10)) for defense in ("plain", "noisy") for attack in ("weak", "strong")
    }
    robust = {name: sum(r["verdict"] == "robust" for r in records) for name, (records, _) in found.items()}
    assert robust["plain/weak"] == 10 and robust["plain/strong"] + robust["noisy/strong"] < 20
    assert execute(small_suite, tmp_path / "out")[0] == 0


def test_clean_votes_are_the_same_whatever_the_attack(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "out")
    found = results(small_suite, tmp_path / "out")
    margins = [[r["clean_margins"] for r in found[f"noisy/{attack}"][0]] for attack in ("weak", "strong")]
    assert margins[0] == margins[1]


def test_results_do_not_depend_on_batch_size_names_or_order(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "a")
    expected = results(small_suite, tmp_path / "a")
    text = small_suite.read_text().replace("shard: 4", "shard: 4, batch_size: 3").replace("strong", "hard")
    lines = text.splitlines()
    lines[5], lines[6] = lines[6], lines[5]
    other = small_suite.with_name("other.yaml")
    other.write_text("\n".join(lines))
    execute(other, tmp_path / "b")
    renamed = {name.replace("hard", "strong"): found for name, found in results(other, tmp_path / "b").items()}
    assert {name: renamed[name] for name in sorted(renamed)}.keys() == {name: 0 for name in sorted(expected)}.keys()
    for name, (records, _) in expected.items():
        verdicts = [(r["adv_votes"], r["verdict"], r["seed"]) for r in records]
        assert verdicts == [(r["adv_votes"], r["verdict"], r["seed"]) for r in renamed[name][0]]


@pytest.mark.parametrize("damage", ["cut records", "cut images", "remove images"])
def test_a_damaged_shard_is_named_and_computed_again(small_suite: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    execute(small_suite, out)
    expected = results(small_suite, out)
    action, what = damage.split()
    path = out / "cells/plain/weak" / ("00004-00008" + {"records": ".parquet", "images": ".safetensors"}[what])
    content = path.read_bytes()
    if action == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    done, shown = execute(small_suite, out)
    assert done == 1
    assert "plain/weak, images 4 to 7:" in shown
    assert_same(results(small_suite, out), expected)


def test_shards_with_errors_are_kept_shown_and_tried_again(small_suite: Path, tmp_path: Path) -> None:
    text = small_suite.read_text().replace(
        'strong: {type: "./fakes.py:Noise", eps: 0.9}', 'bad: {type: "./fakes.py:Crash"}'
    )
    small_suite.write_text(text)
    done, shown = execute(small_suite, tmp_path / "out")
    assert done == 12 and "errors" in shown
    records = Store(tmp_path / "out").cell("noisy", "bad", _key(tmp_path / "out", "noisy", "bad")).read(0, 4)
    assert records is not None
    assert all(r.verdict == "error" and "planted failure (fakes.py:" in (r.error or "") for r in records)
    done, shown = execute(small_suite, tmp_path / "out")
    assert done == 6 and "ended in errors; trying them again" in shown


def _key(out: Path, defense: str, attack: str) -> str:
    manifest = Store(out).manifest() or {}
    return next(c["key"] for c in manifest["cells"] if (c["defense"], c["attack"]) == (defense, attack))


def test_a_suite_that_changed_is_refused_and_the_change_is_named(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "out")
    before = (tmp_path / "out/run.json").read_bytes()
    small_suite.write_text(small_suite.read_text().replace("1/16", "1/17"))
    with pytest.raises(UserError, match=r"cells\.plain/weak\.arguments\.eps: 1/16 -> 1/17"):
        execute(small_suite, tmp_path / "out")
    assert (tmp_path / "out/run.json").read_bytes() == before


def test_a_user_s_file_that_changed_is_refused(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "out")
    fakes = tmp_path / "fakes.py"
    fakes.write_text(fakes.read_text().replace("0.1 * normal", "0.2 * normal"))
    with pytest.raises(UserError, match="the suite changed"):
        execute(small_suite, tmp_path / "out")


def test_a_defense_may_join_a_finished_suite(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "out")
    line = '  plain: {type: "./fakes.py:NearestMean"}\n'
    text = small_suite.read_text().replace(line, line + '  late: {type: "./fakes.py:NearestMean", strength: 0.5}\n')
    small_suite.write_text(text)
    assert execute(small_suite, tmp_path / "out")[0] == 6


def test_a_gate_s_remark_on_a_finished_defense_stays_when_another_joins(small_suite: Path, tmp_path: Path) -> None:
    line = '  plain: {type: "./fakes.py:NearestMean"}\n'
    saturated = line.replace("}", ", strength: 100}")
    small_suite.write_text(small_suite.read_text().replace(line, saturated))
    execute(small_suite, tmp_path / "out")

    def flags() -> dict[str, list[str]]:
        return {cell["defense"]: cell["flags"] for cell in (Store(tmp_path / "out").manifest() or {})["cells"]}

    before = flags()
    assert before["plain"] and not before["noisy"]
    late = saturated.replace("plain", "late")
    small_suite.write_text(small_suite.read_text().replace(saturated, saturated + late))
    assert execute(small_suite, tmp_path / "out")[0] == 6
    assert flags() == {**before, "late": before["plain"]}


HIDDEN = """

class Hidden(NearestMean):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(torch.nn.functional.dropout(x, 0.3))
"""


def test_hidden_randomness_is_told_kept_and_footnoted(small_suite: Path, tmp_path: Path) -> None:
    fakes = tmp_path / "fakes.py"
    fakes.write_text(fakes.read_text() + HIDDEN)
    small_suite.write_text(small_suite.read_text().replace("fakes.py:NearestMean", "fakes.py:Hidden"))
    _, shown = execute(small_suite, tmp_path / "out")
    mark = "honest `stochastic`: stochastic = False, but two calls differ"
    assert f"plain: {mark}" in shown and "noisy: " not in shown
    manifest = Store(tmp_path / "out").manifest() or {}
    flagged = {(cell["defense"], flag.startswith(mark)) for cell in manifest["cells"] for flag in cell["flags"]}
    assert flagged == {("plain", True)}
    rows = {row.name: row.remarks for row in summarise(read_results(tmp_path / "out")).rows}
    assert [remark.startswith(mark) for remark in rows["plain"]] == [True] and rows["noisy"] == ()


def test_hidden_randomness_stops_a_run_that_asks_for_it(small_suite: Path, tmp_path: Path) -> None:
    fakes = tmp_path / "fakes.py"
    fakes.write_text(fakes.read_text() + HIDDEN)
    text = small_suite.read_text().replace("fakes.py:NearestMean", "fakes.py:Hidden")
    small_suite.write_text(text.replace("shard: 4", "shard: 4, gates: stop"))
    with pytest.raises(UserError, match="defense 'plain' failed a gate: honest `stochastic`"):
        execute(small_suite, tmp_path / "out")


def test_what_a_session_remarked_stays_when_the_next_one_sees_less() -> None:
    first, again, other = "honest: two calls differ by 3%", "honest: two calls differ by 4%", "finite logits: NaN"
    assert all_remarks([], [first]) == [first]
    assert all_remarks([first], []) == [first]
    assert all_remarks([first], [again, other]) == [first, other]


def test_a_finished_run_takes_over_titles_labels_and_report_settings(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "out")
    before = Store(tmp_path / "out").manifest() or {}
    text = small_suite.read_text().replace("A small suite", "Another title").replace('Mean"}', 'Mean", label: Plain}')
    small_suite.write_text(text + "report: {average: [weak], groups: {Ours: [noisy]}}\n")
    assert execute(small_suite, tmp_path / "out")[0] == 0
    after = Store(tmp_path / "out").manifest() or {}
    assert (after["title"], after["defenses"]["plain"]["label"]) == ("Another title", "Plain")
    assert after["report"]["average"] == ["weak"] and after["report"]["groups"] == {"Ours": ["noisy"]}
    assert (after["cells"], after["sessions"]) == (before["cells"], before["sessions"])


def test_only_and_limit_choose_pairings_and_images(small_suite: Path, tmp_path: Path) -> None:
    assert execute(small_suite, tmp_path / "out", only="plain/weak")[0] == 3
    assert execute(small_suite, tmp_path / "out", only="plain")[0] == 3
    assert execute(small_suite, tmp_path / "out")[0] == 6
    assert execute(small_suite, tmp_path / "few", limit=5)[0] == 8


def test_rows_stand_as_in_the_suite_whatever_was_computed_first(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "out", only="noisy/strong")
    execute(small_suite, tmp_path / "out")
    found = read_results(tmp_path / "out").manifest
    pairs = [(cell.defense, cell.attack) for cell in found.cells]
    assert pairs == [(cell.defense.name, cell.attack.name) for cell in load_suite(small_suite).cells]
    assert list(found.defenses) == ["plain", "noisy"]


def test_a_lost_manifest_is_written_again(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "out")
    (tmp_path / "out/run.json").unlink()
    assert execute(small_suite, tmp_path / "out")[0] == 0
    assert len((Store(tmp_path / "out").manifest() or {})["cells"]) == 4


def test_two_processes_cannot_write_the_same_results(small_suite: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "out").locked(), pytest.raises(UserError, match="another process"):
        execute(small_suite, tmp_path / "out")


def test_a_full_disk_keeps_what_was_finished(
    small_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*finished shards are kept"):
        execute(small_suite, tmp_path / "out")
    monkeypatch.setattr(os, "fsync", fsync)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert 0 < execute(small_suite, tmp_path / "out")[0] < 12


@pytest.mark.gpu
def test_a_gpu_gives_the_verdicts_of_the_cpu(small_suite: Path, tmp_path: Path) -> None:
    execute(small_suite, tmp_path / "cpu")
    run(load_suite(small_suite), tmp_path / "gpu", torch.device("cuda"))
    on_cpu, on_gpu = (results(small_suite, tmp_path / device) for device in ("cpu", "gpu"))
    for name, (records, _) in on_cpu.items():
        assert [r["verdict"] for r in records] == [r["verdict"] for r in on_gpu[name][0]]


@pytest.mark.long
def test_a_run_killed_ten_times_ends_with_the_records_of_an_uninterrupted_one(
    small_suite: Path, tmp_path: Path
) -> None:
    small_suite.write_text(
        small_suite.read_text().replace("eps: ", "pause: 0.1, eps: ").replace("shard: 4", "shard: 1")
    )
    execute(small_suite, tmp_path / "whole")
    expected = results(small_suite, tmp_path / "whole")
    words = ["run", str(small_suite), "--out", str(tmp_path / "out"), "--device", "cpu"]
    moments, killed = random.Random(0), 0
    for _ in range(100):
        child = command(*words)
        # Let it get past its start, then strike anywhere in its work.
        while child.poll() is None and not (tmp_path / "out/cells").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0.05, 0.6))
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed += 1
        if killed == 10:
            break
    assert killed == 10, "the suite is too short to be killed ten times"
    execute(small_suite, tmp_path / "out")
    assert_same(results(small_suite, tmp_path / "out"), expected)
    assert execute(small_suite, tmp_path / "out")[0] == 0


@pytest.mark.parametrize(("old", "new"), [("first: 10", "first: 8"), ("seed: 0", "seed: 1"), ("votes: 3", "votes: 2")])
def test_another_protocol_is_refused_even_where_every_pairing_is_new(
    small_suite: Path, tmp_path: Path, old: str, new: str
) -> None:
    execute(small_suite, tmp_path / "out", only="plain/weak")
    text = small_suite.read_text()
    small_suite.write_text(text.replace(old, new).replace("  plain:", "  bare:"))
    with pytest.raises(UserError, match="the suite changed since these results were made, for plain/weak"):
        execute(small_suite, tmp_path / "out", only="bare")
    small_suite.write_text(text.replace("  plain:", "  bare:"))
    assert execute(small_suite, tmp_path / "out", only="bare/weak")[0] == 3
