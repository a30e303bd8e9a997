"""Two results directories, cell by cell; or one, row by row.

Cells are matched by the names of their defense and attack. Accuracies are those of the tables: success is counted by
the rule over draws of the (first) run's report. Images that ended in an error on either side are left out, and cells
that failed are not compared. Two cells with the same key make the same claim, and differ only by hardware, batch size
and floating point; where the keys differ, the manifests say why.

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

from harness.datasets.by_name import fixed
from harness.errors import UserError
from harness.reporting.stats.accuracy import both_known, failed
from harness.reporting.stats.paired import Difference, holm, paired, unpaired
from harness.reporting.tables.doubts import Doubts, doubts
from harness.reporting.tables.outcomes import clean_successes, errors, robust_successes
from harness.results.json_diff import describe
from harness.results.load import CellResults, Run
from harness.results.record import Rule

CellName = tuple[str, str]

ENOUGH = 0.5
"""The share of the smaller set of images that both sides must have for a comparison image by image."""


@dataclass(frozen=True)
class Match:
    """Two cells side by side.

    Attributes:
        first, second: the names of defense and attack in the suites.
        same_images: whether they were compared image by image, on the images that both have.
        same_claim: whether their keys are equal; None for two defenses of one run, which never make the same claim.
        differs: why the keys differ, as `path: first -> second`.
        failed: which sides failed, of "first" and "second"; doubted: which have a number that is in doubt, see
            `harness.reporting.tables.doubts`.
        errors: images left out, as they ended in an error under the attack on either side.
        robust, clean: first minus second; None where a side has no image yet, or failed.
        significant: whether the robust accuracies differ significantly, among all matches of the comparison together.
    """

    first: CellName
    second: CellName
    same_images: bool
    same_claim: bool | None
    differs: tuple[str, ...]
    robust: Difference | None
    clean: Difference | None
    failed: tuple[str, ...] = ()
    doubted: tuple[str, ...] = ()
    errors: int = 0
    significant: bool = False


@dataclass(frozen=True)
class Comparison:
    """All matches.

    Attributes:
        first, second: the directories; the same one where its defenses were compared with each other.
        rule, votes: what counts as success over the draws of a stochastic defense, and how many draws there are in the
            first directory.
        other: the rule and the draws of the second directory's own table.
        only_first, only_second: cells that the other directory lacks.
        environment: versions and hardware of the latest sessions, as `path: first -> second`.
    """

    first: str
    second: str
    rule: Rule
    votes: int
    other: tuple[Rule, int]
    matches: tuple[Match, ...]
    only_first: tuple[CellName, ...] = ()
    only_second: tuple[CellName, ...] = ()
    environment: tuple[str, ...] = ()


def compare(first: Run, second: Run) -> Comparison:
    """Cells of the same defense and attack.

    Raises:
        UserError: there is no such cell.
    """
    common = [pair for pair in first.pairings if pair in second.pairings]
    if not common:
        raise UserError(
            f"{first.path} and {second.path} have no pairing of the same names",
            remedy="Compare runs of one suite, or give one directory to compare its defenses with each other",
        )
    content, doubted = _same_content(first, second), (doubts(first), doubts(second))
    return Comparison(
        str(first.path),
        str(second.path),
        *_rule(first),
        _rule(second),
        _marked([_counterparts(first, second, pair, content, doubted) for pair in common]),
        tuple(pair for pair in first.pairings if pair not in second.pairings),
        tuple(pair for pair in second.pairings if pair not in first.pairings),
        tuple(describe(_session(first), _session(second))),
    )


def contrast(run: Run) -> Comparison:
    """The defenses of one run, two at a time, under each attack that both met; no match where none did."""
    matches, doubted = [], doubts(run)
    for attack in run.manifest.attacks:
        pairs = [pair for pair in run.pairings if pair[1] == attack]
        for one, other in itertools.combinations(pairs, 2):
            sides = _Sides(run.pairings[one], run.pairings[other], run.manifest.report.vote, same_content=True)
            match = sides.match(one, other, None, ())
            matches.append(dataclasses.replace(match, doubted=_doubted(one in doubted, other in doubted)))
    return Comparison(str(run.path), str(run.path), *_rule(run), _rule(run), _marked(matches))


def _counterparts(first: Run, second: Run, pair: CellName, content: bool, doubted: tuple[Doubts, Doubts]) -> Match:
    one, other = first.pairings[pair], second.pairings[pair]
    same_claim = one.facts.key == other.facts.key
    differs = () if same_claim else tuple(describe(_claim(first, pair), _claim(second, pair)))
    if not same_claim and not differs:
        differs = ("the code of defense or attack, or the contents of the images",)
    match = _Sides(one, other, first.manifest.report.vote, content).match(pair, pair, same_claim, differs)
    return dataclasses.replace(match, doubted=_doubted(*(pair in found for found in doubted)))


def _doubted(first: bool, second: bool) -> tuple[str, ...]:
    return tuple(side for side, doubted in (("first", first), ("second", second)) if doubted)


def _marked(matches: list[Match]) -> tuple[Match, ...]:
    marks = holm([match.robust.p if match.robust else None for match in matches])
    return tuple(dataclasses.replace(m, significant=mark) for m, mark in zip(matches, marks, strict=True))


def _same_content(first: Run, second: Run) -> bool:
    """Whether an index means the same image in both."""
    one, other = first.manifest.dataset, second.manifest.dataset
    if (one.name, one.split) != (other.name, other.split):
        return False
    return fixed(one.name) or one.fingerprint == other.fingerprint


class _Sides:
    """Two pairings, image by image where an index means the same image in both and they share enough of them."""

    def __init__(self, one: CellResults, other: CellResults, rule: Rule, same_content: bool) -> None:
        sides = (("first", one), ("second", other))
        self.failed = tuple(side for side, each in sides if failed(errors(each.columns), each.done))
        self.empty = not one.done or not other.done
        a, b = _successes(one, rule), _successes(other, rule)
        both = a.index.intersection(b.index, sort=False)
        self.same = same_content and (self.empty or len(both) >= ENOUGH * min(len(a), len(b)))
        self.first, self.second = (a.loc[both], b.loc[both]) if self.same else (a, b)

    def match(self, first: CellName, second: CellName, same_claim: bool | None, differs: tuple[str, ...]) -> Match:
        if self.empty or self.failed:
            return Match(first, second, self.same, same_claim, differs, None, None, self.failed)
        robust, clean = self._difference("robust"), self._difference("clean")
        return Match(first, second, self.same, same_claim, differs, robust, clean, errors=self._errors())

    def _difference(self, column: str) -> Difference | None:
        """None where too many images have no finite logits, which may be so for clean images alone."""
        a, b = (side[column].to_numpy(dtype=np.float64) for side in (self.first, self.second))
        if any(failed(int(np.isnan(side).sum()), len(side)) for side in (a, b)):
            return None
        if self.same:
            return paired(*both_known(a, b))
        return unpaired(a[~np.isnan(a)], b[~np.isnan(b)])

    def _errors(self) -> int:
        missing = [np.isnan(side["robust"].to_numpy(dtype=np.float64)) for side in (self.first, self.second)]
        return int((missing[0] | missing[1]).sum()) if self.same else sum(int(side.sum()) for side in missing)


def _successes(pairing: CellResults, rule: Rule) -> pd.DataFrame:
    """The success of each image, attacked ("robust") and not ("clean"), by its index in the dataset."""
    records = pairing.columns
    successes = {"robust": robust_successes(records, rule), "clean": clean_successes(records, rule)}
    return pd.DataFrame(successes, index=records.numbers("index"))


def _rule(run: Run) -> tuple[Rule, int]:
    return run.manifest.report.vote, run.manifest.protocol.votes


def _claim(run: Run, pair: CellName) -> dict[str, Any]:
    """The parts of a cell's claim that the manifest records."""
    content = run.manifest.document()
    resolved = content["resolved"]
    return {
        "defense": resolved["defenses"].get(pair[0]),
        "attack": resolved["cells"].get("/".join(pair)),
        "dataset": resolved["dataset"],
        "protocol": content["protocol"],
        "harness": content["harness"],
    }


def _session(run: Run) -> dict[str, Any]:
    latest = run.manifest.sessions[-1:]
    return {key: value for each in latest for key, value in each.model_dump(mode="json").items() if key != "started"}
