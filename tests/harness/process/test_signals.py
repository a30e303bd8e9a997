"""Signals end the command in one line and with the status that shells give, at whatever moment they arrive."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.process import signals
from helpers.commands import command

pytestmark = pytest.mark.slow

ENDS = [(name, 128 + signal.Signals[name]) for name in ("SIGINT", "SIGTERM", "SIGHUP")]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in another process, from the moment that it listens to signals: before, Python itself starts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(Path(signals.__file__).parents[2])},
        # A shell starts its background jobs deaf to SIGINT, and these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not listens(process.pid):
        time.sleep(0.002)
    return process


def listens(pid: int) -> bool:
    """Whether a process handles SIGHUP, which Python itself does not."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGHUP - 1) & 1)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["run", "check"])
def test_a_signal_at_any_moment_ends_in_one_line(small_suite: Path, name: str) -> None:
    small_suite.write_text(small_suite.read_text().replace("eps: ", "pause: 0.5, eps: "))
    arguments = {"run": ["run", small_suite.name, "--device", "cpu"], "check": ["check", "fakes.py:NearestMean"]}
    moments = random.Random(name)
    for number, status in ENDS if name == "run" else ENDS[1:2]:
        process = start(small_suite.parent, *arguments[name])
        time.sleep(moments.uniform(0, 1.0))
        process.send_signal(signal.Signals[number])
        out, err = process.communicate(timeout=300)
        assert process.returncode == status
        assert "Traceback" not in out + err and "ignored" not in err
        assert (out + err).count("Stopped.") == 1


@pytest.mark.long
def test_a_signal_that_a_defense_swallows_ends_the_run_all_the_same(
    small_suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = small_suite.parent / "fakes.py"
    fakes.write_text(
        fakes.read_text().replace(
            "        time.sleep(self.pause)\n",
            "        import os\n        try:\n            os.kill(os.getpid(), 15)\n            time.sleep(9)\n"
            "        except BaseException:\n            pass\n",
        )
    )
    monkeypatch.chdir(small_suite.parent)
    process = command("run", small_suite.name, "--out", "out")
    assert process.wait() == 143
    assert "Stopped. Finished shards are kept in out" in process.printed() and "Traceback" not in process.printed()
    assert not list((small_suite.parent / "out").rglob("*.parquet"))


def test_an_ignored_hangup_stays_ignored() -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in signals.ENDING]
    with signals.handled():
        assert [signal.getsignal(number) for number in signals.ENDING] != before
    assert [signal.getsignal(number) for number in signals.ENDING] == before


def test_stoppable_work_is_told_by_an_exception() -> None:
    with signals.handled(), pytest.raises(signals.Stopped) as caught, signals.stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signals.status_of(caught.value) == 143 and signals.arrived() is None


@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_a_reader_who_leaves_ends_the_command_silently(tmp_path: Path, arguments: list[str]) -> None:
    words = [sys.executable, "-m", "harness", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(signals.__file__).parents[2])}
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(300) == 128 + signal.SIGPIPE


@pytest.mark.long
def test_a_terminal_that_closes_ends_the_run_with_its_status(small_suite: Path) -> None:
    small_suite.write_text(small_suite.read_text().replace("eps: ", "pause: 0.5, eps: "))
    mine, its = os.openpty()
    script = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "from harness.__main__ import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "run", small_suite.name, "--out", "out", "--device", "cpu"],
        cwd=small_suite.parent,
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"PYTHONPATH": str(Path(signals.__file__).parents[2]), "TERM": "xterm"},
    )
    os.close(its)
    while process.poll() is None and not (small_suite.parent / "out/cells").exists():
        os.read(mine, 65536)
    os.close(mine)
    assert process.wait(300) == 128 + signal.SIGHUP
