"""A comparison as plain strings, for the renderers of `harness.reporting`."""

from __future__ import annotations

from collections.abc import Iterator

from harness.reporting.render.sheet import FAILED, MANY_IMAGES, Grid, Sheet, Shown
from harness.reporting.stats.accuracy import Estimate
from harness.reporting.stats.paired import Difference
from harness.reporting.tables.comparison import Comparison, Match
from harness.reporting.tables.notes import DOUBT, NOTHING
from harness.reporting.tables.table import rule_name
from harness.reporting.tables.verdict import signed
from harness.results.record import Rule

SOME = 6
"""Pairings or differences that a note names."""


def lay_out(comparison: Comparison) -> Sheet:
    """The texts of a comparison. The number of images is a column only where it varies."""
    alone = all(match.same_claim is None for match in comparison.matches)
    title = f"{comparison.first}, defenses compared" if alone else f"A = {comparison.first}, B = {comparison.second}"
    counts = list(dict.fromkeys(_images(match) for match in comparison.matches))
    names = ["Attack", "A", "B"] if alone else ["Defense", "Attack", "Claim"]
    head = [Shown(text, "robust") for text in ("A", "B", "A − B", "wins A, B", "p")]
    head = [*map(Shown, names), *([Shown("Images")] if len(counts) > 1 else []), *head]
    lines = [
        [*_names(match, alone), *([Shown(_images(match))] if len(counts) > 1 else []), *_figures(match.robust, match)]
        for match in comparison.matches
    ]
    if not alone:
        head.append(Shown("A − B", "clean"))
        lines = [[*line, _difference(match.clean)] for line, match in zip(lines, comparison.matches, strict=True)]
    same = [f"Images of each line: {counts[0]}."] if len(counts) == 1 else []
    return Sheet("comparison", title, Grid(head, lines, labels=3), None, [], [*same, *_notes(comparison, alone)])


def _names(match: Match, alone: bool) -> list[Shown]:
    defense, attack = match.first
    if alone:
        return [Shown(attack), Shown(defense), Shown(match.second[0])]
    return [Shown(defense), Shown(attack), Shown("same" if match.same_claim else "differs")]


def _images(match: Match) -> str:
    """How many images are compared; two numbers where the sides have different images."""
    if match.robust is None:
        return "0"
    n, m = match.robust.first.n, match.robust.second.n
    return str(n) if match.same_images else f"{n}, {m}"


def _figures(robust: Difference | None, match: Match) -> list[Shown]:
    if robust is None:
        sides = [Shown(FAILED if side in match.failed else NOTHING) for side in ("first", "second")]
        return [*sides, *[Shown(NOTHING)] * 3]
    return [
        _accuracy(robust.first, "first" in match.doubted),
        _accuracy(robust.second, "second" in match.doubted),
        _difference(robust),
        Shown(NOTHING if robust.lost is None else f"{robust.lost}, {robust.gained}"),
        Shown(NOTHING if robust.p is None else p_value(robust.p), marks="*" if match.significant else ""),
    ]


def _accuracy(estimate: Estimate, doubted: bool) -> Shown:
    return Shown(f"{100 * estimate.value:.{_digits(estimate)}f}{DOUBT if doubted else ''}")


def _difference(difference: Difference | None) -> Shown:
    if difference is None:
        return Shown(NOTHING)
    return Shown(signed(difference.value), f"{signed(difference.low)} to {signed(difference.high)}")


def _digits(estimate: Estimate) -> int:
    return 2 if estimate.n >= MANY_IMAGES else 1


def p_value(p: float) -> str:
    """A p-value with two significant digits."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _notes(comparison: Comparison, alone: bool) -> Iterator[str]:
    yield (
        f"Accuracy in % as in the tables, {_rule(comparison.rule, comparison.votes)}; differences in percentage points "
        "with 95% intervals (Tango; Newcombe on different images)."
    )
    if comparison.other != (comparison.rule, comparison.votes):
        yield f"B's own table counts {_rule(*comparison.other)}."
    yield (
        "wins A, B: on how many images each side is right more often than the other. p: exact test of the sign of "
        "these differences, which is McNemar's where each image is right or wrong; * marks the differences that are "
        "significant among all lines together (Holm, 5%)."
    )
    if any(match.doubted for match in comparison.matches):
        yield f"{DOUBT}: in doubt, for the reason that `harness report` gives: robust accuracy may be lower than that."
    if any(match.robust and not match.same_images for match in comparison.matches):
        yield "Two numbers of images: the sides have different images, and were not tested image by image."
    if count := sum(match.errors for match in comparison.matches):
        where = [_named(match) for match in comparison.matches if match.errors]
        yield f"Left out: {count} images that ended in an error on either side ({_some(tuple(where))})."
    if failed := [_named(match) for match in comparison.matches if match.failed]:
        yield f"Not compared, since too many images of a side ended in errors: {_some(tuple(failed))}."
    if alone:
        return
    yield from _claims(comparison)
    for which, cells in (("A", comparison.only_first), ("B", comparison.only_second)):
        if cells:
            yield f"Only in {which}: {', '.join('/'.join(cell) for cell in cells)}."
    if comparison.environment:
        yield f"Differences of environment: {_some(comparison.environment)}."


def _rule(rule: Rule, votes: int) -> str:
    return f"by {rule_name(rule, votes)} where a defense is stochastic"


def _named(match: Match) -> str:
    names = dict.fromkeys((match.first, match.second))
    return " − ".join("/".join(name) for name in names)


def _claims(comparison: Comparison) -> Iterator[str]:
    if all(match.same_claim for match in comparison.matches):
        yield "Every line makes the same claim on both sides: equal code, arguments, weights, images and protocol."
        return
    reasons: dict[tuple[str, ...], list[str]] = {}
    for match in comparison.matches:
        if not match.same_claim:
            reasons.setdefault(match.differs, []).append("/".join(match.first))
    for differs, cells in reasons.items():
        yield f"{_some(tuple(cells))} differ by {_some(differs)}."


def _some(texts: tuple[str, ...]) -> str:
    more = f" and {len(texts) - SOME} more" if len(texts) > SOME else ""
    return "; ".join(texts[:SOME]) + more
