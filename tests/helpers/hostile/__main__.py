"""`report` and `verify` on hostile directories, each in a process of its own, on all if none is named:

    cd tests; python -m helpers.hostile FOLDER [CASE ...]

Prints every attempt, and ends with status 1 if one of them failed: it ended in a traceback or by a signal, took more
than `SECONDS`, or took `MEGABYTES` more than the same command on a sound directory.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from helpers import forked
from helpers.hostile import CASES, sound

SECONDS, MEGABYTES = 10, 256
COMMANDS = (("report", "--format", "html"), ("verify", "--device", "cpu"))


def main(folder: Path, chosen: list[str]) -> int:
    forked.preload()
    whole, root, failed = sound(folder), folder / "case", False
    usual = {command: forked.run([command, str(whole), *options], folder).grown for command, *options in COMMANDS}
    for name in chosen or CASES:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)
        _spoil(name, root)
        for command, *options in COMMANDS:
            found = forked.run([command, str(root), *options], folder, limit=3 * SECONDS)
            more = found.grown - usual[command]
            ended = found.status in (0, 1, 2, 3) and not found.traceback
            wrong = not (ended and found.seconds <= SECONDS and more <= MEGABYTES)
            failed |= wrong
            print(
                f"{'WRONG' if wrong else 'ok'} {command} {name}: {found.status}, {found.seconds:.1f} s, {more:.0f} MiB"
            )
            if wrong:
                print(found.out[-2000:])
    return int(failed)


def _spoil(name: str, root: Path) -> None:
    """In a child, whose memory does not count."""
    if not (child := os.fork()):
        try:
            CASES[name](root)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
