"""What differs between two pieces of JSON."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.results.json_diff import describe, differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3) | st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)


def test_leaves_are_told_by_their_path() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "d": None}, {"a": {"b": 2, "c": [1]}, "d": None, "e": {"f": "x" * 99}}
    assert describe(old, new) == ["a.b: 1 -> 2", f"e.f: nothing -> {'x' * 59}…"]
    assert describe({"a": {"b": 1}}, {"a": 2}) == ["a.b: 1 -> nothing", "a: nothing -> 2"]


@given(JSON)
def test_a_value_does_not_differ_from_itself(value: object) -> None:
    assert not describe(value, value)


FLAT = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


@given(FLAT, FLAT)
def test_every_leaf_that_differs_is_told_once(one: dict[str, int], other: dict[str, int]) -> None:
    wanted = {f"in.{key}" for key in one | other if one.get(key) != other.get(key)}
    found = [path for path, _, _ in differences({"in": one}, {"in": other})]
    assert set(found) == wanted and len(found) == len(wanted)
