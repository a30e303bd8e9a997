"""The differences between the defenses of a run, as a square matrix per attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.reporting.render.comparison_layout import p_value
from harness.reporting.render.sheet import FAILED
from harness.reporting.tables.comparison import Match
from harness.reporting.tables.verdict import signed
from harness.results.manifest import Manifest


@dataclass(frozen=True)
class MatrixEntry:
    """Row minus column.

    Attributes:
        text: the difference in points, or that a side failed.
        title: its interval and p-value.
        significant: whether the test finds it significant.
    """

    text: str = ""
    title: str = ""
    significant: bool = False


@dataclass(frozen=True)
class Matrix:
    """The matrix of one attack. lines: a defense and its entries, one per defense of `names`.

    Entries are empty on the diagonal and where nothing is known.
    """

    attack: str
    names: list[str]
    lines: list[tuple[str, list[MatrixEntry]]]


def matrices(matches: Sequence[Match], manifest: Manifest) -> list[Matrix]:
    """A matrix per attack from the matches of `harness.reporting.tables.comparison.contrast`."""
    by_attack: dict[str, list[Match]] = {}
    for match in matches:
        by_attack.setdefault(match.first[1], []).append(match)
    return [_matrix(attack, matches, manifest) for attack, matches in by_attack.items()]


def _matrix(attack: str, matches: list[Match], manifest: Manifest) -> Matrix:
    names = list(dict.fromkeys(side[0] for match in matches for side in (match.first, match.second)))
    labels = {name: manifest.defenses[name].title(name) for name in names}
    entries = {(match.first[0], match.second[0]): _entry(match, 1) for match in matches}
    entries |= {(match.second[0], match.first[0]): _entry(match, -1) for match in matches}
    lines = [(labels[row], [entries.get((row, column), MatrixEntry()) for column in names]) for row in names]
    return Matrix(manifest.attacks[attack].label or attack, list(labels.values()), lines)


def _entry(match: Match, sign: int) -> MatrixEntry:
    difference = match.robust
    if match.failed:
        return MatrixEntry(FAILED)
    if difference is None or difference.p is None:
        return MatrixEntry()
    low, high = sorted((sign * difference.low, sign * difference.high))
    title = f"{signed(low)} to {signed(high)}, p {p_value(difference.p)}"
    text = signed(sign * difference.value) + ("*" if match.significant else "")
    return MatrixEntry(text, title, match.significant)
