"""A comparison as plain strings, for the renderers of `harness.report`."""

from __future__ import annotations

from collections.abc import Iterator

from harness.compare import Comparison, Match
from harness.report.curves import signed
from harness.report.layout import MANY_IMAGES, NOTHING, Grid, Sheet, Shown
from harness.report.paired import Difference
from harness.report.statistics import Estimate

SOME = 6


def lay_out(found: Comparison) -> Sheet:
    """The texts of a comparison. The number of images is a column only where it varies."""
    alone = all(match.same_claim is None for match in found.matches)
    title = f"{found.first}, defenses compared" if alone else f"A = {found.first}, B = {found.second}"
    counts = list(dict.fromkeys(_images(match) for match in found.matches))
    names = ["Attack", "A", "B"] if alone else ["Defense", "Attack", "Claim"]
    head = [Shown(text, "robust") for text in ("A", "B", "A − B", "only A, B", "p")]
    head = [*map(Shown, names), *([Shown("Images")] if len(counts) > 1 else []), *head]
    lines = [
        [*_names(match, alone), *([Shown(_images(match))] if len(counts) > 1 else []), *_figures(match.robust, match)]
        for match in found.matches
    ]
    if not alone:
        head.append(Shown("A − B", "clean"))
        lines = [[*line, _difference(match.clean)] for line, match in zip(lines, found.matches, strict=True)]
    same = [f"Images of each line: {counts[0]}."] if len(counts) == 1 else []
    return Sheet("comparison", title, Grid(head, lines, labels=3), None, [], [*same, *_notes(found, alone)])


def _names(match: Match, alone: bool) -> list[Shown]:
    defense, attack = match.first
    if alone:
        return [Shown(attack), Shown(defense), Shown(match.second[0])]
    return [Shown(defense), Shown(attack), Shown("same" if match.same_claim else "differs")]


def _images(match: Match) -> str:
    """How many are compared, on either side where they are not the same ones."""
    if match.robust is None:
        return "0"
    n, m = match.robust.first.n, match.robust.second.n
    return str(n) if match.same_images else f"{n}, {m}"


def _figures(robust: Difference | None, match: Match) -> list[Shown]:
    if robust is None:
        return [Shown(NOTHING)] * 5
    return [
        _accuracy(robust.first),
        _accuracy(robust.second),
        _difference(robust),
        Shown(NOTHING if robust.lost is None else f"{robust.lost}, {robust.gained}"),
        Shown(NOTHING if robust.p is None else p_value(robust.p), marks="*" if match.significant else ""),
    ]


def _accuracy(estimate: Estimate) -> Shown:
    return Shown(f"{100 * estimate.value:.{_digits(estimate)}f}")


def _difference(difference: Difference | None) -> Shown:
    if difference is None:
        return Shown(NOTHING)
    return Shown(signed(difference.value), f"{signed(difference.low)} to {signed(difference.high)}")


def _digits(estimate: Estimate) -> int:
    return 2 if estimate.n >= MANY_IMAGES else 1


def p_value(p: float) -> str:
    """Two digits that mean something."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _notes(found: Comparison, alone: bool) -> Iterator[str]:
    yield (
        "Accuracy of the verdicts in %, by majority of an image's votes; differences in percentage points with 95% "
        "intervals (Newcombe)."
    )
    yield (
        "only A, B: how many images one side gets right and the other does not. p: McNemar's exact test on them; "
        "* marks what is significant among all lines together (Holm, 5%)."
    )
    if any(not match.same_images for match in found.matches):
        yield "Two numbers of images: the two sides have different ones, and no test was made image by image."
    if alone:
        return
    yield from _claims(found)
    for which, cells in (("A", found.only_first), ("B", found.only_second)):
        if cells:
            yield f"Only in {which}: {', '.join('/'.join(cell) for cell in cells)}."
    if found.environment:
        yield f"Where they ran: {_some(found.environment)}."


def _claims(found: Comparison) -> Iterator[str]:
    if all(match.same_claim for match in found.matches):
        yield "Every line makes the same claim on both sides: equal code, arguments, weights, images and protocol."
        return
    reasons: dict[tuple[str, ...], list[str]] = {}
    for match in found.matches:
        if not match.same_claim:
            reasons.setdefault(match.differs, []).append("/".join(match.first))
    for differs, cells in reasons.items():
        yield f"{_some(tuple(cells))} differ by {_some(differs)}."


def _some(texts: tuple[str, ...]) -> str:
    more = f" and {len(texts) - SOME} more" if len(texts) > SOME else ""
    return "; ".join(texts[:SOME]) + more
