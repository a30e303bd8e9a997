"""Records by column are what the records are, and are checked and hashed as a whole."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.results.columns import ABSENT, Columns, digest_of, fault_of
from harness.results.record import SCHEMA, Record

TEXT = st.text(max_size=3)
DRAWS = st.lists(st.tuples(st.integers(-1, 5), st.floats(width=32, allow_nan=False)), max_size=3)
SIZE = st.floats(0, width=32, allow_infinity=False)


def drawn(clean: list[tuple[int, float]], adv: list[tuple[int, float]], error: str | None, **facts: Any) -> Record:
    votes = {f"{side}_votes": [vote for vote, _ in draws] for side, draws in (("clean", clean), ("adv", adv))}
    margins = {f"{side}_margins": [margin for _, margin in draws] for side, draws in (("clean", clean), ("adv", adv))}
    return Record(verdict="error" if error else "robust", error=error, **votes, **margins, **facts)


RECORDS = st.lists(
    st.builds(
        drawn,
        clean=DRAWS,
        adv=DRAWS,
        error=st.none() | TEXT,
        index=st.integers(0, 2**31 - 1),
        label=st.integers(0, 9),
        linf=SIZE,
        l2=SIZE,
        l1=SIZE,
        flow=st.none() | SIZE,
        violation=SIZE,
        forwards=st.integers(0, 2**63 - 1),
        backwards=st.integers(0, 9),
        seconds=SIZE,
        seed=st.integers(-(2**63), 2**63 - 1),
        flags=st.lists(TEXT, max_size=2),
        l0=st.none() | SIZE,
    ),
    max_size=6,
)
LARGE = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
"""Lists of records are large examples, of which hypothesis discards some."""

VALID = Record(0, 1, "robust", [1, 2], [1], [0.5, -0.5], [0.25], 0.5, 1.5, 2.5, None, 0.0, 20, 10, 0.125, 7, ["a flag"])


@given(RECORDS, st.integers(0, 6))
@LARGE
def test_columns_are_read_like_the_list_of_their_records(records: list[Record], place: int) -> None:
    columns = Columns.of(records)
    assert columns == records and len(columns) == len(records) and list(columns) == records
    assert columns[place:] == records[place:] and columns[::-1] == records[::-1]
    assert Columns.joined([columns[:place], columns[place:]]) == records
    if place < len(records):
        assert columns[place] == records[place] and columns[-1] == records[-1]
    else:
        with pytest.raises(IndexError):
            columns[place]


@given(RECORDS)
@LARGE
def test_columns_hold_the_values_of_the_records(records: list[Record]) -> None:
    columns = Columns.of(records)
    assert columns.numbers("index").tolist() == [record.index for record in records]
    assert columns.failed.tolist() == [record.verdict == "error" for record in records]
    assert list(columns.errors()) == [record.error for record in records]
    flags = [flag for record in records for flag in record.flags]
    assert columns.flag_counts() == {flag: flags.count(flag) for flag in flags}
    assert list(columns.flag_counts()) == list(dict.fromkeys(flags))
    told = [record.error or "" for record in records if record.verdict == "error"]
    assert columns.error_counts() == {error: told.count(error) for error in told}
    width = max((len(record.adv_votes) for record in records), default=0)
    padded = [record.adv_votes + [ABSENT] * (width - len(record.adv_votes)) for record in records]
    assert np.array_equal(columns.votes("adv"), np.array(padded, dtype=int).reshape(len(records), width))
    margins = [record.adv_margins + [math.nan] * (width - len(record.adv_margins)) for record in records]
    expected = np.array(margins, dtype=np.float32).reshape(len(records), width)
    assert np.array_equal(columns.margins("adv"), expected, equal_nan=True)
    data = io.BytesIO()
    pq.write_table(columns.table, data, use_dictionary=False)
    held = pq.read_metadata(data)
    chunks = [held.row_group(g).column(c).num_values for g in range(held.num_row_groups) for c in range(len(SCHEMA))]
    assert sum(chunks) <= columns.values()


@given(RECORDS, st.integers(0, 6))
@LARGE
def test_the_hash_is_of_the_values_however_they_are_kept(records: list[Record], place: int) -> None:
    table = Columns.of(records).table
    expected = digest_of(table)
    assert digest_of(pa.concat_tables([table.slice(0, place), table.slice(place)])) == expected
    assert digest_of(pa.concat_tables([table, table]).slice(len(records))) == expected
    file = io.BytesIO()
    pq.write_table(table, file)
    assert digest_of(pq.read_table(file)) == expected


CHANGES: dict[str, Any] = {
    "index": 1,
    "label": 2,
    "verdict": "fooled",
    "clean_votes": [2, 1],
    "adv_votes": [2],
    "clean_margins": [-0.5, 0.5],
    "adv_margins": [0.26],
    "linf": 0.51,
    "l2": 1.6,
    "l1": 2.6,
    "flow": 0.0,
    "violation": 1.0,
    "forwards": 21,
    "backwards": 11,
    "seconds": 0.25,
    "seed": 8,
    "flags": ["a", "flag"],
    "error": "",
    "l0": 3.0,
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_hash_differs_with_every_value(name: str) -> None:
    changed = dataclasses.replace(VALID, **{name: CHANGES[name]})
    assert CHANGES.keys() == set(SCHEMA.names)
    assert digest_of(Columns.of([VALID, changed]).table) != digest_of(Columns.of([VALID, VALID]).table)
    assert digest_of(Columns.of([VALID, changed]).table) != digest_of(Columns.of([changed, VALID]).table)


@pytest.mark.parametrize(
    ("one", "other"), [([["ab"], []], [["a", "b"], []]), ([["a"], ["b"]], [["a", "b"], []]), ([[], ["a"]], [["a"], []])]
)
def test_the_hash_tells_lists_from_others_of_the_same_texts(one: list[list[str]], other: list[list[str]]) -> None:
    hashes = [
        digest_of(Columns.of([dataclasses.replace(VALID, flags=flags) for flags in each]).table)
        for each in (one, other)
    ]
    assert hashes[0] != hashes[1]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"index": None}, "a record has no 'index'"),
    ({"flags": None}, "a record has no 'flags'"),
    ({"index": -1}, "a record has the index -1"),
    ({"index": 2**31}, "a record has the index 2147483648"),
    ({"label": 2**40}, "a record has the label"),
    ({"forwards": -5}, "a record has the forwards -5"),
    ({"verdict": "perfect"}, "a record has the verdict 'perfect'"),
    ({"error": "why"}, "a record has the verdict 'robust' and an error"),
    ({"adv_votes": [1, 1]}, "a record has 2 votes and 1 margins"),
    ({"adv_votes": [None]}, "a record has a vote for no class"),
    ({"adv_votes": [-2]}, "a record has a vote for no class"),
    ({"clean_votes": [2**40, 1]}, "a record has a vote for no class"),
    ({"adv_margins": [None]}, "a record has a margin that is not a number"),
    ({"linf": math.nan}, "a record has the linf nan"),
    ({"l2": math.inf}, "a record has the l2 inf"),
    ({"flow": -1.0}, "a record has the flow -1.0"),
    ({"l0": -1.0}, "a record has the l0 -1.0"),
    ({"violation": math.nan}, "a record has the violation nan"),
    ({"flags": [None]}, "a record has missing flags or too many of them"),
    ({"flags": ["x"] * 101}, "a record has missing flags or too many of them"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_value_that_no_run_writes_is_found_among_valid_ones(change: dict[str, Any], message: str) -> None:
    rows = [vars(VALID), {**vars(VALID), **change}, vars(VALID)]
    assert str(fault_of(pa.Table.from_pylist(rows, schema=SCHEMA))).startswith(message)


@pytest.mark.parametrize(
    "change",
    [
        {"flow": 0.5},
        {"l0": 5.0},
        {"violation": math.inf},
        {"forwards": 2**63 - 1},
        {"verdict": "error", "error": "why"},
        {"adv_votes": [], "adv_margins": []},
        {"adv_margins": [math.nan]},
        {"error": ""},
    ],
)
def test_every_value_that_a_run_may_write_is_allowed(change: dict[str, Any]) -> None:
    assert fault_of(pa.Table.from_pylist([{**vars(VALID), **change}], schema=SCHEMA)) is None
    assert fault_of(SCHEMA.empty_table()) is None
