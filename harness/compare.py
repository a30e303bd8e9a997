"""Two results directories, cell by cell; or one, row by row.

A cell is matched by the names of its defense and attack. Accuracy here is that of the verdicts: an image counts if
most of its votes are right, and an error counts as wrong. Two cells with the same key make the same claim, and differ
only by hardware, batch size and floating point; where the keys differ, the manifests say why.

    compare     `Run` x `Run` -> `Comparison`      (two directories)
    contrast    `Run` -> `Comparison`              (the defenses of one directory, two at a time, under each attack)
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.differences import told
from harness.errors import UserError
from harness.records import vote
from harness.report.load import Pairing, Run
from harness.report.paired import Difference, Right, holm, paired, unpaired

Place = tuple[str, str]

FIXED = ("digits", "cifar10", "cifar100", "fashion_mnist")
"""Datasets whose name, split and index settle the image."""

ENOUGH = 0.5
"""Share of the smaller set of images that must be in both for a comparison image by image."""


@dataclass(frozen=True)
class Match:
    """Two cells side by side.

    Attributes:
        first, second: defense and attack, as the suites name them.
        same_images: whether they were compared image by image, on the images that both have.
        same_claim: whether their keys are equal; None for two defenses of one run, which never make the same claim.
        differs: why the keys differ, as `path: first -> second`.
        robust, clean: first minus second; None where a side has no image yet.
        significant: of the robust accuracies, among all matches of the comparison together.
    """

    first: Place
    second: Place
    same_images: bool
    same_claim: bool | None
    differs: tuple[str, ...]
    robust: Difference | None
    clean: Difference | None
    significant: bool = False


@dataclass(frozen=True)
class Comparison:
    """All matches.

    Attributes:
        first, second: the directories; the same one where its defenses were compared with each other.
        only_first, only_second: cells that the other directory lacks.
        environment: versions and hardware of the latest sessions, as `path: first -> second`.
    """

    first: str
    second: str
    matches: tuple[Match, ...]
    only_first: tuple[Place, ...] = ()
    only_second: tuple[Place, ...] = ()
    environment: tuple[str, ...] = ()


def compare(first: Run, second: Run) -> Comparison:
    """Cells of the same defense and attack.

    Raises:
        UserError: there is none.
    """
    common = [pair for pair in first.pairings if pair in second.pairings]
    if not common:
        raise UserError(
            f"{first.path} and {second.path} have no pairing of the same names",
            remedy="Compare runs of one suite, or give one directory to compare its defenses with each other",
        )
    content = _same_content(first, second)
    return Comparison(
        str(first.path),
        str(second.path),
        _marked([_counterparts(first, second, pair, content) for pair in common]),
        tuple(pair for pair in first.pairings if pair not in second.pairings),
        tuple(pair for pair in second.pairings if pair not in first.pairings),
        tuple(told(_session(first), _session(second))),
    )


def contrast(run: Run) -> Comparison:
    """The defenses of one run, two at a time, under each attack that both met; no match where none did."""
    matches = []
    for attack in run.manifest.attacks:
        pairs = [pair for pair in run.pairings if pair[1] == attack]
        for one, other in itertools.combinations(pairs, 2):
            robust, clean, same = _figures(run.pairings[one], run.pairings[other], same_content=True)
            matches.append(Match(one, other, same, None, (), robust, clean))
    return Comparison(str(run.path), str(run.path), _marked(matches))


def _counterparts(first: Run, second: Run, pair: Place, content: bool) -> Match:
    one, other = first.pairings[pair], second.pairings[pair]
    robust, clean, same_images = _figures(one, other, content)
    same_claim = one.facts.key == other.facts.key
    differs = () if same_claim else tuple(told(_claim(first, pair), _claim(second, pair)))
    if not same_claim and not differs:
        differs = ("the code of defense or attack, or the contents of the images",)
    return Match(pair, pair, same_images, same_claim, differs, robust, clean)


def _marked(matches: list[Match]) -> tuple[Match, ...]:
    marks = holm([match.robust.p if match.robust else None for match in matches])
    return tuple(dataclasses.replace(m, significant=mark) for m, mark in zip(matches, marks, strict=True))


def _same_content(first: Run, second: Run) -> bool:
    """Whether an index means the same image in both."""
    one, other = first.manifest.dataset, second.manifest.dataset
    if (one.name, one.split) != (other.name, other.split):
        return False
    prints = [run.manifest.raw["dataset"].get("fingerprint") for run in (first, second)]
    return one.name in FIXED or prints[0] == prints[1]


def _figures(one: Pairing, other: Pairing, same_content: bool) -> tuple[Difference | None, Difference | None, bool]:
    """Differences in robust and in clean accuracy, and whether they were taken image by image."""
    if not one.done or not other.done:
        return None, None, same_content
    a, b = _answers(one), _answers(other)
    both = a.index.intersection(b.index, sort=False)
    if same_content and len(both) >= ENOUGH * min(len(a), len(b)):
        a, b = a.loc[both], b.loc[both]
        return paired(_right(a, "robust"), _right(b, "robust")), paired(_right(a, "clean"), _right(b, "clean")), True
    return (
        unpaired(_right(a, "robust"), _right(b, "robust")),
        unpaired(_right(a, "clean"), _right(b, "clean")),
        False,
    )


def _answers(pairing: Pairing) -> pd.DataFrame:
    """Whether each image is right, attacked ("robust") and not ("clean"), by its index in the dataset."""
    rows = pairing.records
    clean = [
        bool(votes) and vote(votes) == label for votes, label in zip(rows["clean_votes"], rows["label"], strict=True)
    ]
    return pd.DataFrame({"robust": (rows["verdict"] == "robust").to_numpy(), "clean": clean}, index=rows["index"])


def _right(answers: pd.DataFrame, column: str) -> Right:
    return answers[column].to_numpy(dtype=np.bool_)


def _claim(run: Run, pair: Place) -> dict[str, Any]:
    """What the manifest keeps of a cell's claim."""
    raw = run.manifest.raw
    resolved = raw.get("resolved", {})
    return {
        "defense": resolved.get("defenses", {}).get(pair[0]),
        "attack": resolved.get("cells", {}).get("/".join(pair)),
        "dataset": resolved.get("dataset"),
        "protocol": raw.get("protocol"),
        "harness": raw.get("harness"),
    }


def _session(run: Run) -> dict[str, Any]:
    sessions = run.manifest.raw.get("sessions", [{}])
    return {key: value for key, value in sessions[-1].items() if key != "started"}
