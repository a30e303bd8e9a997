"""Files of a finished run with one byte changed, cut short, lengthened or removed: read, verified, and run again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.trial import Trial, bounded, contents, numbers, prepare
from helpers.forked import Attempt, run

DAMAGES = 240
RUN = ["run", "suite.yaml", "--out", "hurt", "--device", "cpu"]


def trials(folder: Path) -> Iterator[Trial]:
    out = prepare(folder)
    whole, expected = contents(out), numbers(folder, "out")
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    chance = random.Random(1)
    for number in range(DAMAGES):
        path = out / "run.json" if number % 4 == 0 else chance.choice(files)
        hurt = folder / "hurt"
        shutil.rmtree(hurt, ignore_errors=True)
        shutil.copytree(out, hurt)
        fault = _hurt(hurt / path.relative_to(out), chance)
        yield _judged(folder, f"{fault} in {path.suffix[1:]} files", whole, expected)


def _hurt(path: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    sort = chance.choice(("a bit flipped", "a byte replaced", "cut short", "lengthened", "removed"))
    if sort == "a bit flipped":
        data[place] ^= 1 << chance.randrange(8)
    elif sort == "a byte replaced":
        data[place] = (data[place] + chance.randrange(1, 256)) % 256
    elif sort == "cut short":
        del data[place:]
    elif sort == "lengthened":
        data += chance.randbytes(chance.randrange(1, 64))
    if sort == "removed":
        path.unlink()
    else:
        path.write_bytes(data)
    return sort


def _judged(folder: Path, fault: str, whole: dict[str, object], expected: object) -> Trial:
    verified = run(["verify", "hurt", "--device", "cpu"], folder)
    found = numbers(folder, "hurt")
    for attempt in (verified, *([found] if isinstance(found, Attempt) else [])):
        if broken := bounded(attempt):
            return Trial("damage", fault, "wrong", broken)
    shown = found == expected
    if not isinstance(found, Attempt) and not isinstance(expected, Attempt):
        assert isinstance(expected, dict)
        changed = {pair: n for pair, n in found.items() if n.status == "final" and n != expected.get(pair)}
        if changed and verified.status == 0:
            return Trial("damage", fault, "wrong", f"verified: {changed}")
    again = run(RUN, folder)
    if broken := bounded(again):
        return Trial("damage", fault, "wrong", f"run again: {broken}")
    if again.status == 0 and contents(folder / "hurt") != whole:
        return Trial("damage", fault, "wrong", "other records after running again")
    return Trial("damage", fault, "right" if shown and verified.status == 0 else "said", f"status {verified.status}")
