"""Bad defenses and attacks, one to a run, with a good row after it: neither may get a wrong number.

A defense's number is right if it is the bare network's under the same attack. An attack's is right if it is no lower
than what one honest step leaves, and no higher than clean accuracy: what an attack failed to find is no fault of the
number.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from benchmarks.faults import bad_attacks, bad_defenses
from benchmarks.faults.trial import Number, Trial, numbers
from helpers.forked import Attempt, run

LIMIT = 120

ALONE = ("clean", "pgd", "noise", "stadv", "square")
"""Columns that are no combination of others."""

DRAWN = {"noise": 0.1, "square": 0.35, "average": 0.15, "worst": 0.35}
"""By how much a number may differ where an attack draws: seeds follow from the defense's identity."""

HEAD = "suite: bad\ndataset: {name: digits, first: 12}\nprotocol: {shard: 4, gates: mark}\n"

DEFENSES = (
    HEAD
    + """defenses:
  bad: {type: "./bad_defenses.py:{name}"}
  good: {type: undefended, weights: digits-cnn}
attacks:
  pgd: {type: pgd, norm: Linf, eps: 0.15, steps: 10, loss: margin, random_start: false}
  noise: {type: noise, norm: Linf, eps: 0.15, tries: 3}
  stadv: {type: stadv, bound: 0.2, steps: 3}
  square:
    type: autoattack
    norm: Linf
    eps: 0.15
    version: custom
    attacks: [apgd-ce, square]
    apgd_steps: 5
    square_queries: 50
"""
)

ATTACKS = (
    HEAD
    + """defenses:
  good: {type: undefended, weights: digits-cnn}
attacks:
  bad: {type: "./bad_attacks.py:{name}"}
  pgd: {type: pgd, norm: Linf, eps: 0.15, steps: 10, loss: margin, random_start: false}
"""
)


def trials(folder: Path) -> Iterator[Trial]:
    for module in (bad_defenses, bad_attacks):
        shutil.copy(inspect.getfile(module), folder / f"{module.__name__.rpartition('.')[2]}.py")
    good = _numbers(folder, DEFENSES, "Base")
    if isinstance(good, Attempt):
        raise RuntimeError(good.out)
    for name in _classes(bad_defenses):
        yield Trial("components", f"defense: {name}", *_defense(folder, name, good))
    honest = _numbers(folder, ATTACKS, "Base")
    if isinstance(honest, Attempt):
        raise RuntimeError(honest.out)
    for name in _classes(bad_attacks):
        yield Trial("components", f"attack: {name}", *_attack(folder, name, honest))


def _classes(module: ModuleType) -> list[str]:
    own = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    return sorted(cls.__name__ for cls in own if cls.__name__ != "Base")


Found = dict[tuple[str, str], Number] | Attempt


def _numbers(folder: Path, suite: str, name: str) -> Found:
    """What the table shows after a run, or the attempt that left none."""
    (folder / "suite.yaml").write_text(suite.replace("{name}", name))
    shutil.rmtree(folder / "out", ignore_errors=True)
    done = run(["run", "suite.yaml", "--out", "out", "--device", "cpu"], folder, limit=LIMIT)
    if done.traceback or done.status not in (0, 1, 3) or not (folder / "out/run.json").exists():
        return done
    shown = numbers(folder, "out")
    if done.status == 0 and not isinstance(shown, Attempt) and any(n.errors for n in shown.values()):
        return Attempt(0, f"status 0 with errors: {done.out}", 0, 0)
    return shown


def _defense(folder: Path, name: str, good: dict[tuple[str, str], Number]) -> tuple[str, str]:  # type: ignore[return]
    found = _numbers(folder, DEFENSES, name)
    if isinstance(found, Attempt):
        return _refused(found)
    for pair, number in found.items():
        if pair[0] == "good" and number != good.get(pair):
            return "wrong", f"the good row's {pair[1]} became {number}"
    rows = {pair[1]: number for pair, number in found.items() if pair[0] == "bad"}
    plain = {attack: number for attack, number in rows.items() if number.status == "final" and not number.flags}
    if any(attack not in plain for attack in ALONE):  # what is made of them is marked with them
        plain = {attack: number for attack, number in plain.items() if attack in ALONE}
    if not all(_near(number.accuracy, _of(good, "bad", attack), attack) for attack, number in plain.items()):
        return "wrong", f"plain numbers { ({a: n.accuracy for a, n in plain.items()}) }"
    return ("right" if len(plain) == len(rows) else "said"), str({a: (n.status, n.flags[:80]) for a, n in rows.items()})


def _of(good: dict[tuple[str, str], Number], defense: str, attack: str) -> float | None:
    number = good.get((defense, attack))
    return number.accuracy if number else None


def _near(found: float | None, wanted: float | None, attack: str) -> bool:
    return found is not None and wanted is not None and abs(found - wanted) <= DRAWN.get(attack, 0.0) + 1e-9


def _attack(folder: Path, name: str, honest: dict[tuple[str, str], Number]) -> tuple[str, str]:  # type: ignore[return]
    found = _numbers(folder, ATTACKS, name)
    if isinstance(found, Attempt):
        return _refused(found)
    for pair, number in found.items():
        if pair[1] != "bad" and pair[1] not in ("average", "worst") and number != honest.get(pair):
            return "wrong", f"{pair} became {number}"
    number = found["good", "bad"]
    if number.status != "final" or number.flags:
        return "said", f"{number.status}: {number.flags[:200]}"
    lowest, highest = _of(honest, "good", "bad"), _of(honest, "good", "clean")
    if number.accuracy is None or lowest is None or highest is None:
        return "wrong", str(number)
    return ("right" if lowest <= number.accuracy <= highest else "wrong"), str(number)


def _refused(done: Attempt) -> tuple[str, str]:
    if done.traceback or done.status not in (1, 2, 3):
        return "wrong", f"status {done.status}: {done.out.strip()[-300:]}"
    return "said", done.out.strip()[-200:]
