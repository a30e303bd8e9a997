"""Whatever becomes of a job of several shards, each shard ends as if it had been computed in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.evaluation.engines.engine import Lost
from harness.evaluation.engines.local import Local
from harness.evaluation.job import Job
from harness.evaluation.shard import Shard
from harness.evaluation.time_limits import TimeLimits
from helpers.engines import Notes, contents, finish

SUITE = """
suite: small
dataset: {name: digits, first: 10}
protocol: {shard: 4, gates: off}
defenses:
  cnn: {type: undefended, weights: digits-cnn}
attacks:
  pgd: {type: pgd, norm: Linf, eps: 0.1, steps: 4, early_stop: false}
  carried: {type: transfer, norm: Linf, eps: 0.1, from: cnn, attack: pgd}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "suite.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def whole(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert finish(suite, out).computed == 6
    return out


class Forgetful(Local):
    """Loses every job of several shards, and some of single ones."""

    def __init__(self, lost: str = "") -> None:
        super().__init__()
        self.jobs: list[str] = []
        self._lost = lost

    def compute(self, take: Callable[[], Job | None], limits: TimeLimits) -> Iterator[tuple[Job, list[Shard] | Lost]]:
        while job := take():
            self.jobs.append(str(job))
            if len(job.shards) > 1 or str(job) == self._lost:
                yield job, Lost("it was forgotten")
            else:
                yield job, self._at_work().compute(job)


def test_a_run_that_was_stopped_between_two_shards_of_a_batch_ends_with_the_same_bits(
    suite: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finish(suite, tmp_path, None, Notes(shards=2))
    assert finish(suite, tmp_path).computed == 4
    assert contents(suite, tmp_path) == contents(suite, whole)


def test_a_batch_that_no_process_finishes_is_tried_shard_by_shard(suite: Path, whole: Path, tmp_path: Path) -> None:
    engine, notes = Forgetful(), Notes()
    assert finish(suite, tmp_path, engine, notes).failures == []
    assert engine.jobs[0] == "cnn/pgd, images 0 to 9"
    assert engine.jobs[1:4] == [f"cnn/pgd, images {first} to {last}" for first, last in ((0, 3), (4, 7), (8, 9))]
    assert "cnn/pgd, images 0 to 9: it was forgotten; trying its shards one by one" in notes.notes
    verdicts = [[record["verdict"] for record in contents(suite, out)["cnn/pgd"][0]] for out in (tmp_path, whole)]
    assert verdicts[0] == verdicts[1]


def test_a_shard_that_no_process_finishes_alone_costs_its_own_images(suite: Path, tmp_path: Path) -> None:
    found = finish(suite, tmp_path, Forgetful("cnn/pgd, images 4 to 7"), Notes()).failures
    assert {failure.name: failure.errors for failure in found} == {"cnn/pgd": 4, "cnn/carried": 4}
