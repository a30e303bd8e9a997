"""An attack that is given another pairing's images, through a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.run import run
from harness.results.store import Store
from harness.suite import load_suite

SUITE = """
suite: transfer
dataset: {name: digits, first: 8}
protocol: {shard: 4}
defenses:
  target: {type: at, weights: digits-at-linf}
  surrogate: {type: undefended, weights: digits-cnn}
attacks:
  carried: {type: transfer, norm: Linf, eps: 0.2, from: surrogate, attack: own}
  own: {type: pgd, norm: Linf, eps: 0.2, steps: 3}
pairings:
  - {defense: target, attack: carried}
  - {defense: surrogate, attack: own}
"""


def finish(folder: Path, text: str = SUITE, only: str | None = None) -> int:
    (folder / "suite.yaml").write_text(text)
    plan = load_suite(folder / "suite.yaml", only=only)
    return run(plan, folder / "out", torch.device("cpu")).computed


@pytest.mark.slow
def test_the_images_are_those_of_the_other_pairing(tmp_path: Path) -> None:
    assert finish(tmp_path) == 4 and finish(tmp_path) == 0
    plan = load_suite(tmp_path / "suite.yaml")
    own, carried = pending_work(plan, Store(tmp_path / "out"), load_images(plan)[1], print)
    assert (own.name, carried.name) == ("surrogate/own", "target/carried") and carried.source is not None
    for bounds in carried.shards:
        assert carried.stored.images(*bounds)["images"].equal(own.stored.images(*bounds)["images"])
        assert all(record.forwards == 0 and record.linf > 0.1 for record in carried.shards[bounds] or [])


def test_other_images_are_another_claim(tmp_path: Path) -> None:
    def key(text: str) -> str:
        (tmp_path / "suite.yaml").write_text(text)
        plan = load_suite(tmp_path / "suite.yaml")
        return pending_work(plan, Store(tmp_path / "out"), load_images(plan)[1], print)[1].stored.key

    assert key(SUITE) != key(SUITE.replace("steps: 3", "steps: 4")) != key(SUITE.replace("seed", "other"))


@pytest.mark.slow
def test_a_pairing_alone_asks_for_its_source_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of which 0 to 3 are not done\. Run surrogate/own first"):
        finish(tmp_path, only="target")
    assert finish(tmp_path, only="surrogate") == 2 and finish(tmp_path, only="target") == 2


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("from: surrogate", "from: surogate", "'?surogate/own, which the suite does not pair"),
        ("eps: 0.2, from", "eps: 0.3, from", "budget Linf 0.3, the images of surrogate/own have Linf 0.2"),
        ("from: surrogate, attack: own", "from: target, attack: carried", "has none of its own"),
    ],
)
def test_a_source_that_cannot_be_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        finish(tmp_path, SUITE.replace(old, new))
    assert refused.value.where is not None and refused.value.where.line == 9
