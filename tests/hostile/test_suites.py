"""Suites that hang, fill the memory or end in a traceback are refused, with what is wrong about them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite import load_suite

SOUND = """
suite: sound
dataset: {name: digits, first: 4}
protocol: {votes: 2, shard: 2}
defenses:
  plain: {type: undefended, weights: digits-cnn}
attacks:
  noise: {type: noise, norm: Linf, eps: 0.1}
"""

DIGITS = "9" * 100_000


def chain(folder: Path) -> None:
    """Sixty files that stand on one another."""
    for place in range(60):
        (folder / f"{place}.yaml").write_text(f"extends: {place + 1}.yaml\n")
    (folder / "60.yaml").write_text(SOUND)
    (folder / "suite.yaml").write_text("extends: 0.yaml\n")


def tree(folder: Path) -> None:
    """Each of twenty files names the next twice: a million readings."""
    for place in range(20):
        (folder / f"{place}.yaml").write_text(f"extends: [{place + 1}.yaml, {place + 1}.yaml]\n")
    (folder / "20.yaml").write_text(SOUND)
    (folder / "suite.yaml").write_text("extends: 0.yaml\n")


def written(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "suite.yaml").write_text(text) and None


def laughing() -> str:
    """A billion laughs."""
    lines = ["x-a: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"x-{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 10)]
    return "\n".join(lines) + SOUND


def swept(**axes: int) -> str:
    """So many values of each argument of the attack."""
    listed = {name: ", ".join(str(value / 1000) for value in range(count)) for name, count in axes.items()}
    return SOUND + "sweep: {" + ", ".join(f"attack.noise.{name}: [{values}]" for name, values in listed.items()) + "}\n"


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "stands on /dev/zero": (written("extends: /dev/zero\n"), "not a regular file"),
    "stands on a pipe": (
        lambda folder: (os.mkfifo(folder / "pipe"), (folder / "suite.yaml").write_text("extends: pipe\n")),
        "not a regular file",
    ),
    "is a pipe": (lambda folder: os.mkfifo(folder / "suite.yaml"), "not a regular file"),
    "is a folder": (lambda folder: (folder / "suite.yaml").mkdir(), "not a regular file"),
    "is a loop of links": (lambda folder: (folder / "suite.yaml").symlink_to("suite.yaml"), "symbolic links"),
    "is ten sparse gigabytes": (
        lambda folder: ((folder / "suite.yaml").touch(), os.truncate(folder / "suite.yaml", 10 << 30)),
        "bytes, more than the limit",
    ),
    "stands on sixty files": (chain, "more than 50 others"),
    "stands on a million readings": (tree, "more than 50 others"),
    "a billion laughs": (written(laughing()), "more than 100000 values"),
    "a seed of 100,000 digits": (written(SOUND.replace("votes: 2", f"seed: {DIGITS}")), "more than 64 bits"),
    "a hexadecimal seed of 100,000 digits": (
        written(SOUND.replace("votes: 2", f"seed: 0x{'f' * 100_000}")),
        "more than 64 bits",
    ),
    "a budget of 100,000 digits": (written(SOUND.replace("0.1", f"'{DIGITS}x'")), "is not a number"),
    "a million votes": (written(SOUND.replace("votes: 2", "votes: 1000000")), "less than or equal to 1000"),
    "a shard of too many votes": (
        written(SOUND.replace("votes: 2, shard: 2", "votes: 1000, shard: 1000")),
        "with 1000 votes a shard has at most 373 images",
    ),
    "a sweep of 2,000 values": (written(swept(eps=2000)), "2,000 variants, and 1,000 are allowed"),
    "a sweep of 250,000 pairs of values": (written(swept(eps=500, norm=500)), "250,000 variants"),
    "a reference outside": (
        written(SOUND + "report: {reference: ../../etc/passwd}\n"),
        "a name starts with a letter or digit",
    ),
    "weights that are a pipe": (
        lambda folder: (
            os.mkfifo(folder / "w.pt"),
            (folder / "suite.yaml").write_text(SOUND.replace("digits-cnn", "./w.pt")),
        ),
        "there is no file",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_suite_is_refused_at_once(tmp_path: Path, case: str) -> None:
    make, told = CASES[case]
    make(tmp_path)
    began = time.process_time()
    with pytest.raises(UserError, match=told):
        load_suite(tmp_path / "suite.yaml")
    assert time.process_time() - began < 10


def test_more_pairings_than_a_table_has_places_are_refused(tmp_path: Path) -> None:
    defenses = "".join(f"  d{n}: {{type: undefended, weights: digits-cnn}}\n" for n in range(80))
    attacks = "".join(f"  a{n}: {{type: noise, norm: Linf, eps: 0.1}}\n" for n in range(80))
    path = tmp_path / "suite.yaml"
    path.write_text(f"suite: s\ndataset: {{name: digits, first: 1}}\ndefenses:\n{defenses}attacks:\n{attacks}")
    with pytest.raises(UserError, match="6,400 pairings of 80 defenses and 80 attacks"):
        load_suite(path)


@pytest.mark.parametrize("text", ["1" * 99_999 + "x", "1/" * 50_000, "." + "9" * 99_999 + "e", " " * 100_000 + "1 1"])
def test_a_long_number_is_refused_without_a_search(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="is not a number"):
        Quantity(text)
    assert time.process_time() - began < 1
