"""Faults of every kind, tried: kills, damaged bytes, forgeries, bad components, hostile directories.

    python benchmarks/faults                    all of them, and writes docs/reliability.md; about half an hour
    python benchmarks/faults kills damage       these families only, to the terminal

Each trial runs the commands that a user would, in a process of its own, and reads what they print and leave. Ends with
status 1 if anything wrong was reported as right.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "tests")]

from benchmarks.faults import components, damage, directories, forgeries, kills, worker_kills
from benchmarks.faults.trial import Trial
from helpers.forked import preload

FAMILIES: dict[str, Callable[[Path], Iterator[Trial]]] = {
    "kills": kills.trials,
    "workers": worker_kills.trials,
    "damage": damage.trials,
    "forgeries": forgeries.trials,
    "components": components.trials,
    "directories": directories.trials,
}

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"

HEADINGS = {
    "kills": "Runs killed, then finished",
    "workers": "Workers and drivers killed, then finished",
    "damage": "Damaged files",
    "forgeries": "Forged results, by `harness verify`",
    "components": "Bad defenses and attacks",
    "directories": "Hostile directories and suites",
}

HEAD = """# What was tried to make the harness report a wrong number

Made by `python benchmarks/faults`, which runs every trial as a user would and ends in an error if one goes wrong.

*Right*: the numbers are those of an undisturbed run. *Said*: refused, shown as failed, marked, or contradicted or left
unverified by `harness verify`. *Unseen*: what no check of these files can tell. *Wrong*: a wrong number shown as right,
a traceback, more than 10 s or more than 256 MiB on hostile input.

"""


def main(families: list[str]) -> int:
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        print(f"there is no family {unknown[0]}; there are {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    preload()
    found = [trial for family in families or FAMILIES for trial in _tried(family)]
    page = _page(found)
    if families:
        print(page)
    else:
        PAGE.write_text(HEAD + page)
    return int(any(trial.outcome == "wrong" for trial in found))


def _tried(family: str) -> list[Trial]:
    began, found = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for trial in FAMILIES[family](Path(folder)):
            found.append(trial)
            if trial.outcome == "wrong":
                print(f"WRONG {family}: {trial.fault}: {trial.detail}", file=sys.stderr, flush=True)
    print(f"{family}: {len(found)} trials, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def _page(found: list[Trial]) -> str:
    parts = ["| family | tried | right | said | unseen | wrong |\n|:--|--:|--:|--:|--:|--:|\n"]
    for family in dict.fromkeys(trial.family for trial in found):
        parts.append(_line(HEADINGS[family], [trial for trial in found if trial.family == family]))
    for family in dict.fromkeys(trial.family for trial in found):
        parts.append(
            f"\n## {HEADINGS[family]}\n\n| fault | tried | right | said | unseen | wrong |\n|:--|--:|--:|--:|--:|--:|\n"
        )
        of_family = [trial for trial in found if trial.family == family]
        for fault in sorted({trial.fault for trial in of_family}):
            parts.append(_line(fault, [trial for trial in of_family if trial.fault == fault]))
    return "".join(parts)


def _line(name: str, trials: list[Trial]) -> str:
    counts = Counter(trial.outcome for trial in trials)
    cells = [len(trials), *(counts[outcome] for outcome in ("right", "said", "unseen", "wrong"))]
    return f"| {name} | {' | '.join(str(cell) if cell else '' for cell in cells)} |\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
