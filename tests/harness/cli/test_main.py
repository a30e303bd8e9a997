"""What a user types ends in an answer, or in one paragraph that says what to mend: never in a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli
from harness.cli import listing

pytestmark = pytest.mark.slow

Mutation = Callable[[Path], list[str]]
"""Spoils a valid suite in place; returns the arguments of `harness run`."""


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


def replacing(old: str, new: str) -> Mutation:
    def spoil(suite: Path) -> list[str]:
        text = suite.read_text()
        assert old in text
        suite.write_text(text.replace(old, new))
        return ["run", str(suite)]

    return spoil


def another_suite(suite: Path) -> list[str]:
    cli_run = ["run", str(suite), "--out", str(suite.parent / "out")]
    assert call(*cli_run) == 0
    suite.write_text(suite.read_text().replace("suite: small", "suite: other"))
    return cli_run


def missing_file(suite: Path) -> list[str]:
    return ["run", str(suite.with_name("smal.yaml"))]


def file_as_results(suite: Path) -> list[str]:
    (suite.parent / "taken").write_text("")
    return ["run", str(suite), "--out", str(suite.parent / "taken")]


def foreign_manifest(suite: Path) -> list[str]:
    (suite.parent / "out").mkdir()
    (suite.parent / "out/run.json").write_text("[1, 2")
    return ["run", str(suite), "--out", str(suite.parent / "out")]


PLAIN = '{type: "./fakes.py:NearestMean"}'
MISTAKES: dict[str, tuple[Mutation, list[str]]] = {
    "unknown defense": (replacing(f"plain: {PLAIN}", "plain: {type: undefendd}"), ["small.yaml:6", "'undefended'"]),
    "unknown attack": (replacing('weak: {type: "./fakes.py:Noise"', "weak: {type: pdg"), ["small.yaml:9", "'pgd'"]),
    "eps of 8": (
        replacing('weak: {type: "./fakes.py:Noise", eps: 1/16}', "weak: {type: pgd, norm: Linf, eps: 8}"),
        ["small.yaml:9", "8/255"],
    ),
    "missing checkpoint": (
        replacing(PLAIN, "{type: undefended, weights: ./gone.pt}"),
        ["small.yaml:6", "gone.pt", "Check the path"],
    ),
    "misspelt packaged checkpoint": (
        replacing(PLAIN, "{type: undefended, weights: digits-cmn}"),
        ["small.yaml:6", "'digits-cnn'"],
    ),
    "misspelt key": (replacing("protocol:", "protocoll:"), ["small.yaml:4", "'protocol'"]),
    "misspelt argument": (replacing("eps: 0.9", "epz: 0.9"), ["small.yaml:10", "'eps'"]),
    "YAML syntax": (replacing("eps: 0.9}", "eps: 0.9"), ["small.yaml:"]),
    "unknown dataset": (replacing("name: digits", "name: digit"), ["small.yaml:3", "'digits'"]),
    "absent dataset": (
        replacing("name: digits, split: test", "name: npz, path: gone.npz"),
        ["small.yaml:3", "gone.npz"],
    ),
    "too many images": (replacing("first: 10", "first: 501"), ["small.yaml:3", "500"]),
    "missing suite": (missing_file, ["smal.yaml", "'small.yaml'"]),
    "results of another suite": (another_suite, ["run.json", "'small'", "'other'", "--out"]),
    "a file where results go": (file_as_results, ["taken", "--out"]),
    "a manifest that is none": (foreign_manifest, ["run.json", "not a manifest"]),
    "unknown pairing": (lambda suite: ["run", str(suite), "--only", "plain/week"], ["small.yaml", "'weak'"]),
    "unknown device": (lambda suite: ["run", str(suite), "--device", "gpu"], ["'gpu'", "--device cpu"]),
    "a user's file with an error": (
        lambda suite: [(suite.parent / "fakes.py").write_text("import torch\n1 / 0\n") and "run", str(suite)],
        ["small.yaml:6", "fakes.py:2", "ZeroDivisionError"],
    ),
    "an attack the defense does not suit": (
        replacing('weak: {type: "./fakes.py:Noise", eps: 1/16}', "weak: {type: autoattack, norm: Linf, eps: 0.1}"),
        ["small.yaml:9", "'noisy'", "rand"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_paragraph_with_place_and_remedy(
    name: str, small_suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_suite.parent)
    mistake, told = MISTAKES[name]
    arguments = mistake(small_suite)
    capsys.readouterr()
    assert call(*arguments) == 2
    shown = capsys.readouterr()
    paragraph = shown.err.strip()
    assert paragraph.startswith("error: ") and "\n" not in paragraph
    assert "Traceback" not in shown.out + shown.err
    for part in told:
        assert part in paragraph
    assert not list(small_suite.parent.rglob("*.tmp"))
    assert not (small_suite.parent / "results").exists() or not list(
        (small_suite.parent / "results").rglob("*.parquet")
    )


def test_a_results_directory_that_cannot_be_written_is_named(
    small_suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An unwritable folder that root cannot write either: a directory below a file system without one.
    assert call("run", str(small_suite), "--out", "/proc/self/results") == 2
    error = capsys.readouterr().err
    assert "/proc/self/results" in error and "--out" in error


def test_run_report_and_show_work_on_a_small_suite(small_suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(small_suite.parent / "out")
    assert call("run", str(small_suite), "--out", out) == 0
    assert "Computed 12 shards" in capsys.readouterr().out
    assert call("run", str(small_suite), "--out", out) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert call("report", out) == 0
    assert "noisy" in capsys.readouterr().out
    assert call("report", out, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)
    assert call("show", str(small_suite)) == 0
    shown = capsys.readouterr().out
    assert "eps: 1/16" not in shown
    total = next(line for line in shown.splitlines() if line.startswith("total"))
    assert total.split()[1] == str(2 * 10 * (2 + 6))  # per attack: one draw of clean and adversarial each, or three
    assert call("show", str(small_suite), "--full") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.index("suite: small") > next(at for at, line in enumerate(lines) if line.startswith("total"))
    assert any("eps: 1/16" in line for line in lines)


def test_show_says_what_a_sweep_makes(small_suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_suite.write_text(small_suite.read_text() + "sweep: {defense.noisy.strength: [0.5, 2]}\n")
    assert call("show", str(small_suite)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["defense", "noisy:", "strength", "0.5", "noisy.strength-0.5"] in lines
    assert ["2", "noisy.strength-2"] in lines


def test_report_without_results_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err


def test_check_passes_a_skeleton_and_fails_a_broken_defense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("new", "defense", "mine") == 0
    assert call("check", "mine.py:Mine") == 0
    text = (tmp_path / "mine.py").read_text().replace("(Defense)", "(Defense)", 1)
    (tmp_path / "mine.py").write_text(
        text + "\n\nclass Probabilities(Mine):\n    def classify(self, x):\n"
        "        return super().classify(x).softmax(1)\n"
    )
    capsys.readouterr()
    assert call("check", "mine.py:Probabilities") == 1
    assert "softmax" in capsys.readouterr().out


def test_listing_does_not_wait_for_torch() -> None:
    code = "import sys; from harness import cli\ntry: cli.main(['list', '--json'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert {"undefended", "at", "dc", "rdc"} <= {row["name"] for row in listed["defenses"]}
    assert {"autoattack", "pgd", "clean"} <= {row["name"] for row in listed["attacks"]}
    assert {"digits", "cifar10"} <= {row["name"] for row in listed["datasets"]}


def test_a_fault_of_ours_shows_its_traceback_and_a_status_that_says_nothing_of_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "listing", {}.__getitem__)
    assert call("list") == 70
    assert "KeyError: 'defenses'" in capsys.readouterr().err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "report", "compare", "eot", "list", "show", "check", "new", "train", "doctor"):
        assert call(command, "--help") == 0
        assert len(capsys.readouterr().out) > 200


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stopped_run_says_what_is_kept_and_how_to_go_on(name: str, small_suite: Path) -> None:
    small_suite.write_text(small_suite.read_text().replace("eps: ", "pause: 0.5, eps: "))
    command = [sys.executable, "-c", "from harness.cli import main; main()", "run", str(small_suite), "--out", "out"]
    process = subprocess.Popen(
        command,
        cwd=small_suite.parent,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        # A shell starts its background jobs deaf to SIGINT, and these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "images" in line:
            break
    process.send_signal(signal.Signals[name])
    rest = process.stdout.read()
    assert process.wait(30) == 128 + signal.Signals[name]
    assert "Stopped. Finished shards are kept in out" in rest
    assert list((small_suite.parent / "out").rglob("*.parquet"))
