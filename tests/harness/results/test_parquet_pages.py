"""What a Parquet file will unfold to, told without decoding it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.results.parquet_pages import columns

NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1, max_size=50)


def written(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def found(data: bytes) -> list[tuple[int, int, int]]:
    return [(c.values, c.size, c.dictionary) for c in columns(data, pq.read_metadata(pa.BufferReader(data)))]


@given(NUMBERS, st.booleans(), st.sampled_from(["1.0", "2.0"]), st.sampled_from([None, 40, 1000]))
@settings(max_examples=40, deadline=None)
def test_values_are_counted_as_arrow_counts_them(
    values: list[int | None], dictionary: bool, version: str, page: int | None
) -> None:
    """However they are laid out in pages, of either version."""
    table = pa.table(
        {"one": pa.array(values, pa.int64()), "many": pa.array([values] * len(values), pa.list_(pa.int64()))}
    )
    data = written(table, use_dictionary=dictionary, data_page_version=version, data_page_size=page)
    assert [count for count, _, _ in found(data)] == [len(values), len(values) ** 2]


def test_the_size_of_uncompressed_plain_pages_is_that_of_their_numbers() -> None:
    """Eight bytes each, and levels: every definition level in one run of a few bytes."""
    data = written(pa.table({"a": list(range(1000))}), use_dictionary=False, compression="NONE")
    [(count, size, dictionary)] = found(data)
    assert count == 1000 and 8000 <= size <= 8020 and dictionary == 0


def test_a_dictionary_is_counted_apart() -> None:
    [(count, size, dictionary)] = found(written(pa.table({"a": ["x" * 10_000] * 500})))
    assert count == 500 and dictionary == 10_004 and size < 10_100


@pytest.mark.parametrize("codec", ["gzip", "zstd", "brotli"])
def test_codecs_that_swell_are_refused(codec: str) -> None:
    with pytest.raises(ValueError, match=f"compressed by {codec.upper()}"):
        found(written(pa.table({"a": [1]}), compression=codec))


def test_a_page_that_says_more_than_the_footer_is_refused() -> None:
    data = written(pa.table({"a": [1, 2]}), use_dictionary=False, compression="NONE")
    place = data.index(b"\x2c\x15\x04")
    assert found(data)
    lying = data[:place] + b"\x2c\x15\x06" + data[place + 3 :]
    with pytest.raises(ValueError, match="says that it has 2 values, and its pages have 3"):
        found(lying)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_whatever_the_bytes_are_they_are_refused_or_counted(noise: bytes, start: int) -> None:
    data = written(pa.table({"a": list(range(50)), "b": ["x"] * 50}))
    footer = pq.read_metadata(pa.BufferReader(data))
    spoilt = data[:start] + noise + data[start + len(noise) :]
    try:
        counted = columns(spoilt, footer)
    except ValueError:
        return
    assert [column.values for column in counted] == [50, 50]
