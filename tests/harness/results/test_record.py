from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.results.record import NO_CLASS, SCHEMA, Record, verdict_of, vote
from helpers.examples import examples


def test_the_schema_has_the_records_fields_in_their_order() -> None:
    assert SCHEMA.names == [field.name for field in dataclasses.fields(Record)]


def test_the_most_frequent_class_wins_and_a_tie_for_the_lead_is_no_class() -> None:
    assert vote([3, 1, 3]) == 3
    assert vote([3, 1]) == vote([1, 3]) == NO_CLASS
    assert vote([2, 9, 9, 2, 5]) == NO_CLASS
    assert vote([2, 9, 9, 5]) == 9
    assert vote([7]) == 7
    assert vote([]) == NO_CLASS


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=9), st.permutations(range(5)))
@settings(deadline=None, max_examples=examples(100))
def test_the_winner_leads_alone_and_neither_order_nor_index_decides(votes: list[int], names: list[int]) -> None:
    counts, winner = Counter(votes), vote(votes)
    leaders = [choice for choice, count in counts.items() if count == max(counts.values())]
    assert winner == (leaders[0] if len(leaders) == 1 else NO_CLASS)
    assert vote(votes[::-1]) == winner
    renamed = [NO_CLASS if guess == NO_CLASS else names[guess] for guess in votes]
    assert vote(renamed) == (NO_CLASS if winner == NO_CLASS else names[winner])


@pytest.mark.parametrize(
    ("votes", "error", "verdict"),
    [
        ([1], None, "robust"),
        ([1, 1, 2], None, "robust"),
        ([2, 1, 3], None, "fooled"),
        ([1, 2], None, "fooled"),
        ([NO_CLASS], None, "fooled"),
        ([], None, "fooled"),
        ([1, 1, 1], "the attack failed", "error"),
        ([2], "", "error"),
    ],
)
def test_an_image_is_robust_only_if_its_class_leads_alone_and_nothing_failed(
    votes: list[int], error: str | None, verdict: str
) -> None:
    assert verdict_of(votes, 1, error) == verdict
