"""A comparison as plain strings, for the renderers of `harness.report`."""

from __future__ import annotations

from collections.abc import Iterator

from harness.compare import Comparison, Match
from harness.report.layout import MANY_IMAGES, NOTHING, Grid, Sheet, Shown
from harness.report.paired import Difference
from harness.report.statistics import Estimate

SOME = 6


def lay_out(found: Comparison) -> Sheet:
    """The texts of a comparison."""
    alone = found.first == found.second
    title = f"{found.first}, defenses compared" if alone else f"A = {found.first}, B = {found.second}"
    names = ["Attack", "A", "B"] if alone else ["Defense", "Attack", "Claim"]
    head = [Shown(text) for text in (*names, "Images")]
    head += [Shown(text, "robust") for text in ("A", "B", "A − B", "only A", "only B", "p")] + [Shown("A − B", "clean")]
    lines = [[*_names(match, alone), *_figures(match)] for match in found.matches]
    return Sheet("comparison", title, Grid(head, lines, labels=3), None, [], list(_notes(found, alone)))


def _names(match: Match, alone: bool) -> list[Shown]:
    defense, attack = match.first
    if alone:
        return [Shown(attack), Shown(defense), Shown(match.second[0])]
    return [Shown(defense), Shown(attack), Shown("same" if match.same_claim else "differs")]


def _figures(match: Match) -> list[Shown]:
    robust, clean = match.robust, match.clean
    if robust is None or clean is None:
        return [Shown("0"), *[Shown(NOTHING)] * 7]
    n, m = robust.first.n, robust.second.n
    return [
        Shown(str(n) if match.same_images else f"{n}, {m}"),
        _accuracy(robust.first),
        _accuracy(robust.second),
        _difference(robust),
        *(Shown(NOTHING if count is None else str(count)) for count in (robust.lost, robust.gained)),
        Shown(NOTHING if robust.p is None else p_value(robust.p), marks="*" if match.significant else ""),
        _difference(clean),
    ]


def _accuracy(estimate: Estimate) -> Shown:
    return Shown(f"{100 * estimate.value:.{_digits(estimate)}f}")


def _difference(difference: Difference) -> Shown:
    value = f"{100 * difference.value:+.{_digits(difference.first)}f}"
    return Shown(
        value.replace("-", "−"), f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}".replace("-", "−")
    )


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
        "only A, only B: images that one side gets right and the other does not. p: McNemar's exact test on them; "
        "* marks what is significant among all lines together (Holm, 5%)."
    )
    if any(not match.same_images for match in found.matches):
        yield "Two numbers under Images: the two sides have other images, and no test was made image by image."
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
