"""Certified lower and attacked upper bounds on the robustness of the same smoothed defense, image by image.

    lower   the certified radius, if the certified class is the true one; else 0. It holds with probability 1 - alpha
            for each image (`harness.certification.smoothing.certify`)
    upper   the L2 distance of the nearest image, the clean one included, that an attack of this run found and that is
            misclassified. To count as such, its votes must show it: `predict` (likewise), at level alpha, names another
            class. Infinite where there is none

Both are about the smoothed classifier, that is, about a majority of infinitely many votes: so lower <= upper. An image
that contradicts this is a fault of the certificate, of the defense or of this program, and is reported as one, and so
is an image whose votes are too rarely those of the certified class, given its distance (`p_of_certificate`, with the
level alpha divided by the number of such comparisons).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.certification.smoothing import ABSTAINS, Certified, certify, p_of_certificate, predict
from harness.results.load import CellResults, Run

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Fault:
    """An image that contradicts its certificate. distance: of the contradicting image, in L2."""

    index: int
    radius: float
    distance: float
    attack: str
    right: int
    votes: int

    def describe(self) -> str:
        """A sentence."""
        return (
            f"image {self.index} is certified up to {self.radius:.3g}, and at {self.distance:.3g} ({self.attack}) "
            f"{self.votes - self.right} of {self.votes} votes are for other classes"
        )


@dataclass(frozen=True)
class Bounds:
    """A smoothed defense under one certificate. Arrays have an entry for each of N images.

    Attributes:
        certificate: its name in the suite.
        index: of the images in their split; truth: their labels.
        certified: classes, p_low and radii.
        upper: see above; by: the attack that found that image, "" for none or for the clean image itself.
        failed: images of which the certificate ended in an error.
        faults: images that contradict their certificates.
        draws: of each image, n0 and n; alpha, sigma: of the certificate.
        needed: so many unanimous votes are needed to show a misclassification; votes: so many there are.
    """

    defense: str
    label: str
    certificate: str
    sigma: float
    alpha: float
    draws: tuple[int, int]
    index: NDArray[np.int64]
    truth: NDArray[np.int64]
    certified: Certified
    upper: Numbers
    by: tuple[str, ...]
    failed: int
    faults: tuple[Fault, ...]
    needed: int
    votes: int

    @property
    def lower(self) -> Numbers:
        """The radius of each image that is certified to be classified right; else 0."""
        return np.where(self.certified.classes == self.truth, self.certified.radii, 0.0)

    @property
    def abstains(self) -> float:
        """The share of images without a certified class."""
        return float((self.certified.classes == ABSTAINS).mean())


def bounds(run: Run) -> list[Bounds]:
    """The bounds of every certificate of a run that is finished."""
    return [_bounds(run, cell) for cell in run.certificates.values() if cell.finished and cell.done]


@dataclass(frozen=True)
class _Seen:
    """Answers of the defense to one image for each of M rows. counts: votes by class, (M, K); distance: in L2, (M,)."""

    attack: str
    rows: NDArray[np.int64]
    distance: Numbers
    counts: NDArray[np.int64]


def _bounds(run: Run, cell: CellResults) -> Bounds:
    facts, defense = cell.facts, run.manifest.defenses[cell.facts.defense]
    numbers, sigma = facts.certificate, defense.smoothing_sigma
    assert numbers is not None and sigma is not None and cell.counts is not None  # a manifest without is refused
    truth = cell.columns.numbers("label").astype(np.int64)
    certified = certify(cell.counts, numbers.n, sigma=sigma, alpha=numbers.alpha)
    seen = list(_seen(run, cell))
    upper, by = _upper(seen, truth, numbers.alpha)
    index = cell.columns.numbers("index").astype(np.int64)
    return Bounds(
        facts.defense,
        defense.title(facts.defense),
        facts.attack,
        sigma,
        numbers.alpha,
        (numbers.n0, numbers.n),
        index,
        truth,
        certified,
        upper,
        by,
        int(cell.columns.failed.sum()),
        tuple(_faults(seen, certified, index, sigma, numbers.alpha)),
        votes_needed(numbers.alpha),
        run.manifest.protocol.votes,
    )


def votes_needed(alpha: float) -> int:
    """The smallest number of unanimous votes by which `predict` names a class: 2 (1/2)^v is at most alpha.

    Example:
        >>> votes_needed(0.001)
        11
    """
    return math.ceil(1 - math.log2(alpha))


def _seen(run: Run, cell: CellResults) -> Iterator[_Seen]:
    """The defense's votes on the clean images, and on what each attack made of them."""
    places = {int(place): row for row, place in enumerate(cell.places)}
    yield _Seen("", np.arange(len(places)), np.zeros(len(places)), _by_class(cell.columns.votes("clean")))
    for (defense, attack), pairing in run.pairings.items():
        if defense != cell.facts.defense:
            continue
        usable = np.array([place in places for place in pairing.places.tolist()], dtype=bool) & ~pairing.columns.failed
        chosen = np.flatnonzero(usable)
        records = pairing.columns.take(chosen)
        rows = np.array([places[int(pairing.places[at])] for at in chosen], dtype=np.int64)
        distance = records.numbers("l2").astype(np.float64)
        yield _Seen(attack, rows, distance, _by_class(records.votes("adv")))


def _by_class(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Votes (M, V), of which negative ones are for no class, as counts (M, K), K at least 2."""
    classes = max(2, int(votes.max(initial=0)) + 1)
    counts = np.zeros((len(votes), classes), dtype=np.int64)
    rows, draws = np.nonzero(votes >= 0)
    np.add.at(counts, (rows, votes[rows, draws]), 1)
    return counts


def _upper(seen: Sequence[_Seen], truth: NDArray[np.int64], alpha: float) -> tuple[Numbers, tuple[str, ...]]:
    upper, by = np.full(len(truth), np.inf), [""] * len(truth)
    for each in seen:
        answer = predict(each.counts, alpha)
        wrong = (answer != ABSTAINS) & (answer != truth[each.rows]) & (each.distance < upper[each.rows])
        for at in np.flatnonzero(wrong):
            upper[each.rows[at]], by[each.rows[at]] = each.distance[at], each.attack
    return upper, tuple(by)


def _faults(
    seen: Sequence[_Seen], certified: Certified, index: NDArray[np.int64], sigma: float, alpha: float
) -> Iterator[Fault]:
    level = alpha / max(1, sum(len(each.rows) for each in seen))
    for each in seen:
        classes, radius = certified.classes[each.rows], certified.radii[each.rows]
        inside = np.flatnonzero((classes != ABSTAINS) & (each.distance < radius))
        votes = each.counts.sum(1)
        for at in inside:
            row, right = each.rows[at], _right(each.counts[at], int(classes[at]))
            few = p_of_certificate(certified.p_low[row], each.distance[at], right, int(votes[at]), sigma) < level
            other = predict(each.counts[at : at + 1], alpha)[0] not in (ABSTAINS, classes[at])
            if few or other:
                distance, where = float(each.distance[at]), each.attack or "the image itself"
                yield Fault(int(index[row]), float(radius[at]), distance, where, right, int(votes[at]))


def _right(counts: NDArray[np.int64], label: int) -> int:
    """The votes for a class, of which there may be none."""
    return int(counts[label]) if label < len(counts) else 0
