"""Certified and attacked bounds as grids: by radius for each defense, and image by image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.reporting.render.sheet import Block, Grid, Shown, accuracy_shown
from harness.reporting.tables.certified import attacked_accuracy, certified_accuracy, faults_told, radii
from harness.reporting.tables.notes import NOTHING, one_line
from harness.reporting.tables.table import Table
from harness.results.bounds import Bounds

MOST_IMAGES = 200
"""A table with a line per image is shown for so many images at most."""


def by_radius(table: Table) -> Iterator[Block]:
    """For each certificate, certified and attacked accuracy of every defense by radius."""
    every = radii(table.certified, table.run)
    for name, found in _by_certificate(table):
        head = [Shown("Defense"), Shown("Accuracy"), Shown("Abstains"), *(Shown(f"r = {radius:g}") for radius in every)]
        lines = [line for each in found for line in _lines(each, every)]
        yield Block(Shown(one_line(f"Certified in L2 ({_label(table, name)})")), Grid(head, lines, 2), _remark(found))


def by_image(table: Table) -> Iterator[Block]:
    """For each certificate, the certified radius of every image, and the distance at which an attack broke it."""
    for name, found in _by_certificate(table):
        if max(len(each.index) for each in found) > MOST_IMAGES:
            continue
        head = [Shown("Image"), *(Shown(one_line(each.label), f"sigma {each.sigma:g}") for each in found)]
        places = {int(index): row for each in found for row, index in enumerate(each.index)}
        lines = [[Shown(str(index)), *(_image(each, row) for each in found)] for index, row in places.items()]
        remark = (
            "The certified radius, and the L2 distance of the nearest image on which votes show a misclassification, "
            f"if an attack found one. {NOTHING}: not certified. FAULT: an answer contradicts the certificate."
        )
        yield Block(
            Shown(one_line(f"Certified and attacked, image by image ({_label(table, name)})")),
            Grid(head, lines),
            remark,
            long=True,
        )


def _by_certificate(table: Table) -> Iterator[tuple[str, list[Bounds]]]:
    for name in dict.fromkeys(each.certificate for each in table.certified):
        yield name, [each for each in table.certified if each.certificate == name]


def _label(table: Table, name: str) -> str:
    facts = table.run.manifest.certificates.get(name)
    return (facts.label if facts else None) or name


def _lines(found: Bounds, every: Sequence[float]) -> Iterator[list[Shown]]:
    label, abstains = one_line(found.label), f"{100 * found.abstains:.1f}"
    certified = [accuracy_shown(certified_accuracy(found, radius)) for radius in every]
    yield [Shown(label, f"sigma {found.sigma:g}"), Shown("certified ≥"), Shown(abstains), *certified]
    told = [accuracy_shown(attacked_accuracy(found, radius)) for radius in every]
    attacked = told if found.votes >= found.needed else [Shown(NOTHING)] * len(every)
    yield [Shown(""), Shown("attacked ≤"), Shown(""), *attacked]


def _image(found: Bounds, row: int) -> Shown:
    lower, upper, index = float(found.lower[row]), float(found.upper[row]), int(found.index[row])
    text = f"{lower:.3f}" if lower > 0 else NOTHING
    broken = "" if math.isinf(upper) else f"broken at {upper:.3f}" if upper else "wrong as it is"
    if any(fault.index == index for fault in found.faults):
        text = f"FAULT {text}"
    return Shown(text, broken)


def _remark(found: Sequence[Bounds]) -> str:
    (n0, n), alpha = found[0].draws, found[0].alpha
    sentences = [
        f"Both are about the majority of infinitely many votes of the smoothed defense. Certified: each radius holds "
        f"with probability {1 - alpha:.3%}"
        + (f", from {n0:,} and {n:,} draws" if len({each.draws for each in found}) == 1 else "")
        + ". Attacked: the images that no attack of this table misclassified within r, where votes show it at level "
        f"{alpha:g}."
    ]
    if any(each.votes < each.needed for each in found):
        sentences.append(
            f"{found[0].votes} votes can show no misclassification at that level: write `protocol: {{votes: "
            f"{found[0].needed}}}` or more."
        )
    if failed := sum(each.failed for each in found):
        sentences.append(f"{failed} images ended in an error, and count as not certified.")
    return " ".join([*(f"{fault}." for each in found if (fault := faults_told(each))), *sentences])
