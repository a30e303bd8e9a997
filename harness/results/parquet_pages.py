"""The memory that decoding a Parquet file needs, computed from its page headers before anything is decoded.

A few hundred bytes of Parquet can decode to gigabytes: run-length encoding repeats a value two billion times, a
compressed page expands, and one long text in a dictionary is copied for every row. The footer states the number of
values, but readers use the pages, so both must agree. Only the features that `harness.results.store` uses are accepted.

    column chunk     dictionary page (at most one), then data pages, back to back
    page             header (Thrift's compact protocol), then `compressed_page_size` bytes
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""Page types."""

VALUES_IN = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}
"""For each page type, the header field whose first entry is the number of values in the page."""

CODECS = ("SNAPPY", "UNCOMPRESSED")
"""The accepted codecs; others can expand a thousandfold."""

PAGES = 100_000
"""The largest number of pages in a column."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)

DEEPEST = 8
"""The largest number of nested levels in a page header."""


@dataclass(frozen=True)
class Page:
    """A page. kind: its page type; values: their number, nulls included; size: in bytes, when decompressed."""

    kind: int
    values: int
    size: int


@dataclass(frozen=True)
class Column:
    """A column. values: their number in all data pages; size: decompressed bytes of all pages; dictionary: decompressed
    bytes of the dictionary page.
    """

    values: int
    size: int
    dictionary: int


def columns(data: bytes, footer: pq.FileMetaData) -> list[Column]:
    """The sizes of all columns of a file.

    Args:
        footer: the metadata of the file.

    Raises:
        ValueError: the pages contradict the footer, use a codec that is not accepted, or are not valid.
    """
    chunks = []
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            chunk = footer.row_group(group).column(place)
            if chunk.compression not in CODECS:
                raise ValueError(f"a column is compressed by {chunk.compression}")
            chunks.append(_column(data, chunk))
    return chunks


def _column(data: bytes, chunk: pq.ColumnChunkMetaData) -> Column:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    stop = start + chunk.total_compressed_size
    if not 0 <= start < stop <= len(data):
        raise ValueError("a column lies outside the file")
    pages = list(_pages(data, start, stop))
    values = sum(page.values for page in pages if page.kind != DICTIONARY)
    if values != chunk.num_values:
        raise ValueError(f"a column says that it has {chunk.num_values} values, and its pages have {values}")
    return Column(
        values,
        sum(page.size for page in pages),
        sum(page.size for page in pages if page.kind == DICTIONARY),
    )


def _pages(data: bytes, start: int, stop: int) -> Iterator[Page]:
    for _ in range(PAGES):
        if start >= stop:
            return
        header, start = _struct(data, start, stop, 0)
        kind, size, held = (_count(header, field) for field in (1, 2, 3))
        inner = header.get(VALUES_IN.get(kind, -1))
        start += held
        yield Page(kind, _count(inner if isinstance(inner, dict) else {}, 1), size)
    raise ValueError("a column has too many pages")


def _count(fields: dict[int, Any], field: int) -> int:
    value = fields.get(field)
    if type(value) is not int or value < 0:
        raise ValueError("a page has no valid header")
    return value


def _struct(data: bytes, at: int, stop: int, depth: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, and its end position."""
    if depth > DEEPEST:
        raise ValueError("a page's header is nested too deep")
    fields: dict[int, Any] = {}
    field = 0
    while True:
        head, at = _byte(data, at, stop)
        if not head:
            return fields, at
        kind = head & 0x0F
        if head >> 4:
            field += head >> 4
        else:
            field, at = _integer(data, at, stop)
        fields[field], at = _value(data, at, stop, kind, depth)


def _value(data: bytes, at: int, stop: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind in _INTEGERS:
        return _integer(data, at, stop)
    if kind == _STRUCT:
        return _struct(data, at, stop, depth + 1)
    if kind == _BINARY:
        length, at = _varint(data, at, stop)
    elif kind in (_BYTE, _DOUBLE):
        length = 1 if kind == _BYTE else 8
    else:
        raise ValueError("a page's header contains a list")  # no current page header does
    if at + length > stop:
        raise ValueError("a page's header is cut short")
    return None, at + length


def _integer(data: bytes, at: int, stop: int) -> tuple[int, int]:
    value, at = _varint(data, at, stop)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = _byte(data, at, stop)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a page's header has a number without an end")


def _byte(data: bytes, at: int, stop: int) -> tuple[int, int]:
    if at >= stop:
        raise ValueError("a page's header is cut short")
    return data[at], at + 1
