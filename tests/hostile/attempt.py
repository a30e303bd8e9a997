"""Commands on hostile directories, each in a process of its own: how it ended, how long it took, how much memory.

Run as a program, it tries `COMMANDS` on cases of `directories.py`, on all if none is named, and writes a line of JSON
per attempt:

    python tests/hostile/attempt.py FOLDER [CASE ...]
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SECONDS, MEGABYTES = 10, 256
"""What one attempt may take, the memory beside that of the same command on a sound directory."""

COMMANDS = (("report", "--format", "html"), ("verify", "--device", "cpu"))


@dataclass(frozen=True)
class Attempt:
    """status: of the command; -9 and the like where a signal ended it. output: what it printed."""

    case: str
    command: str
    status: int
    seconds: float
    megabytes: float
    output: str

    @property
    def in_order(self) -> bool:
        """It ended as a command should, in time, and within its memory."""
        return self.status in (0, 1, 2, 3) and self.seconds <= SECONDS and self.megabytes <= MEGABYTES


def attempt(case: str, arguments: list[str], usual: float = 0.0) -> Attempt:
    """One command in a child of this process, which has everything imported already.

    Args:
        usual: megabytes that the command takes on a sound directory.
    """
    began = time.perf_counter()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _run(arguments, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        output = pipe.read().decode(errors="replace")
    _, status, used = os.wait4(child, 0)
    megabytes = used.ru_maxrss / 1024 - usual
    return Attempt(
        case, arguments[0], os.waitstatus_to_exitcode(status), time.perf_counter() - began, megabytes, output[-2000:]
    )


def attempts(folder: Path, cases: dict[str, Callable[[Path], object]], sound: Path) -> Iterator[Attempt]:
    """`COMMANDS` on a copy of a sound directory for each case, spoilt by it."""
    usual = [attempt("sound", [command, str(sound), *options]).megabytes for command, *options in COMMANDS]
    for name, spoil in cases.items():
        root = folder / "case"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(sound, root)
        _apart(lambda root=root, spoil=spoil: spoil(root))
        for (command, *options), most in zip(COMMANDS, usual, strict=True):
            yield attempt(name, [command, str(root), *options], most)


def _apart(work: Callable[[], object]) -> None:
    """In a child, whose memory does not count."""
    if not (child := os.fork()):
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _run(arguments: list[str], writing: int) -> None:
    from harness import cli

    for stream in (1, 2):
        os.dup2(writing, stream)
    signal.alarm(3 * SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = 70
    try:
        cli.main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def load_beside(name: str) -> Any:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(folder: Path, chosen: list[str]) -> None:
    from harness import cli

    directories = load_beside("directories")
    sound = directories.sound(folder)
    for command, *options in COMMANDS:  # whatever they import is there before the first attempt
        with contextlib.suppress(SystemExit), open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            cli.main([command, str(sound), *options])
    for found in attempts(folder, {name: directories.CASES[name] for name in chosen or directories.CASES}, sound):
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
