"""Robust accuracy above clean accuracy is pointed out where it cannot be, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.reporting import summarise
from harness.reporting.tables.contradiction import IMPOSSIBLE, UNLIKELY, above_clean
from harness.results.columns import Columns
from harness.results.load import read_run
from harness.results.record import Record, Verdict

VOTES = 5


def drawn(clean: np.ndarray, robust: np.ndarray, seed: int, votes: int = VOTES, verdict: Verdict = "robust") -> Columns:
    """Records of independent draws, right at these rates per image, (n,) each."""
    generator = np.random.default_rng(seed)
    right = [(generator.random((len(rate), votes)) < rate[:, None]).astype(int).tolist() for rate in (clean, robust)]
    margins, rest = [0.0] * votes, (0.0, 0.0, 0.0, None, 0.0, 1, 1, 0.0, 0)
    pairs = enumerate(zip(*right, strict=True))
    return Columns.of(Record(i, 1, verdict, before, after, margins, margins, *rest) for i, (before, after) in pairs)


@pytest.mark.parametrize(
    ("clean", "adv", "told"),
    [("rrw", "rww", None), ("rrw", "wwr", IMPOSSIBLE), ("www", "www", None), ("rrr", "rrr", None)],
)
def test_an_image_of_a_deterministic_defense_is_robust_only_where_it_is_right(
    maker: Any, column: Callable[..., Any], clean: str, adv: str, told: str | None
) -> None:
    maker.count = 3
    maker.cell("d", "a", column(adv, clean))
    entry = summarise(read_run(maker.finish())).rows[0].entries[1]
    assert (told in entry.remarks) if told else entry.remarks == ()


def test_an_error_contradicts_nothing() -> None:
    records = drawn(np.zeros(4), np.ones(4), 0, votes=1, verdict="error")
    assert above_clean(records, stochastic=False) is None
    assert above_clean(records, stochastic=True) is None


@pytest.mark.slow
def test_an_attack_that_does_nothing_is_hardly_ever_pointed_out() -> None:
    generator, told = np.random.default_rng(1), 0
    for seed in range(1000):
        n = (8, 32, 100)[seed % 3]
        rates = generator.beta(*((0.5, 0.5), (5, 1), (1, 1))[seed % 3], size=n)
        told += above_clean(drawn(rates, rates, seed), stochastic=True) is not None
    assert told <= 2


def test_an_attack_that_makes_a_stochastic_defense_better_is_pointed_out() -> None:
    told = [above_clean(drawn(np.full(32, 0.5), np.full(32, 0.8), seed), stochastic=True) for seed in range(100)]
    assert told.count(UNLIKELY) > 90


def test_an_attack_that_works_is_not_pointed_out() -> None:
    told = [above_clean(drawn(np.full(32, 0.8), np.full(32, 0.5), seed), stochastic=True) for seed in range(100)]
    assert told == [None] * 100
