"""The defenses of a run against each other, a square per attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.reporting.render.comparison_layout import p_value
from harness.reporting.render.layout import FAILED
from harness.reporting.tables.comparison import Match
from harness.reporting.tables.verdict import signed
from harness.results.manifest import Manifest


@dataclass(frozen=True)
class MatrixEntry:
    """Row minus column. text: in points, or that a side failed; said: with interval and p-value."""

    text: str = ""
    said: str = ""
    significant: bool = False


@dataclass(frozen=True)
class Matrix:
    """lines: a defense, and a place per defense of `names`; empty on the diagonal and where nothing is known."""

    attack: str
    names: list[str]
    lines: list[tuple[str, list[MatrixEntry]]]


def matrices(matches: Sequence[Match], manifest: Manifest) -> list[Matrix]:
    """A square per attack from the matches of `harness.reporting.tables.comparison.contrast`."""
    by_attack: dict[str, list[Match]] = {}
    for match in matches:
        by_attack.setdefault(match.first[1], []).append(match)
    return [_matrix(attack, found, manifest) for attack, found in by_attack.items()]


def _matrix(attack: str, matches: list[Match], manifest: Manifest) -> Matrix:
    names = list(dict.fromkeys(side[0] for match in matches for side in (match.first, match.second)))
    labels = {name: manifest.defenses[name].label or name for name in names}
    places = {(match.first[0], match.second[0]): _place(match, 1) for match in matches}
    places |= {(match.second[0], match.first[0]): _place(match, -1) for match in matches}
    lines = [(labels[row], [places.get((row, column), MatrixEntry()) for column in names]) for row in names]
    return Matrix(manifest.attacks[attack].label or attack, list(labels.values()), lines)


def _place(match: Match, sign: int) -> MatrixEntry:
    found = match.robust
    if match.failed:
        return MatrixEntry(FAILED)
    if found is None or found.p is None:
        return MatrixEntry()
    low, high = sorted((sign * found.low, sign * found.high))
    said = f"{signed(low)} to {signed(high)}, p {p_value(found.p)}"
    return MatrixEntry(signed(sign * found.value) + ("*" if match.significant else ""), said, match.significant)
