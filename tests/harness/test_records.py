from __future__ import annotations

import dataclasses
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import SCHEMA, Record, vote


def test_the_schema_has_the_records_fields_in_their_order() -> None:
    assert SCHEMA.names == [field.name for field in dataclasses.fields(Record)]


def test_the_most_frequent_class_wins_and_the_smallest_of_equals() -> None:
    assert vote([3, 1, 3]) == 3
    assert vote([3, 1]) == 1
    assert vote([2, 9, 9, 2, 5]) == 2
    assert vote([7]) == 7


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=9))
@settings(deadline=None, max_examples=100)
def test_no_class_has_more_votes_than_the_winner_and_order_is_nothing(votes: list[int]) -> None:
    counts, winner = Counter(votes), vote(votes)
    assert all(counts[winner] > n or (counts[winner] == n and winner <= guess) for guess, n in counts.items())
    assert vote(votes[::-1]) == winner
