"""Records column by column, as Arrow keeps them: 300 bytes an image, where `Record` objects take thousands.

`Columns` is read like a list of `Record`s, each of which is made when it is asked for, and gives the columns that
numbers are computed from as arrays with an entry per record.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.results.record import LATER, SCHEMA, VERDICTS, Record
from harness.suite.limits import MOST_CLASSES, MOST_FLAGS

ABSENT = -2
"""In an array of votes, behind the last vote of a record that has fewer than others."""

Numbers = NDArray[Any]
Side = Literal["clean", "adv"]
SIDES: tuple[Side, Side] = ("clean", "adv")
"""Of an image: before and after the attack."""


class Columns(Sequence[Record]):
    """A sequence of records.

    Args:
        table: of the schema `harness.results.record.SCHEMA`, and checked, see `fault_of`.
    """

    def __init__(self, table: pa.Table) -> None:
        self._whole, self._rows = _Whole(table), range(table.num_rows)

    @property
    def table(self) -> pa.Table:
        """The records as a table of `SCHEMA`."""
        table, rows = self._whole.table, self._rows
        return table if len(rows) == table.num_rows else table.slice(rows.start, len(rows))

    @classmethod
    def of(cls, records: Iterable[Record]) -> Columns:
        """The columns of records that exist already."""
        return cls(pa.Table.from_pylist([vars(record) for record in records], schema=SCHEMA))

    @classmethod
    def joined(cls, parts: Iterable[Columns]) -> Columns:
        """One after the other. Parts that follow each other in one table stay where they are."""
        runs = list[Columns]()
        for part in parts:
            last = runs[-1] if runs else None
            if last is not None and last._whole is part._whole and last._rows.stop == part._rows.start:
                runs[-1] = last._view(range(last._rows.start, part._rows.stop))
            else:
                runs.append(part)
        if len(runs) == 1:
            return runs[0]
        return cls(pa.concat_tables(run.table for run in runs).combine_chunks() if runs else SCHEMA.empty_table())

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, which: int) -> Record: ...
    @overload
    def __getitem__(self, which: slice) -> Columns: ...
    def __getitem__(self, which: int | slice) -> Record | Columns:
        places = range(len(self))[which]
        if isinstance(places, int):
            return next(iter(self[places : places + 1]))
        if places.step == 1:
            first = self._rows.start + places.start
            return self._view(range(first, first + len(places)))
        return self.take(np.array(places, dtype=np.int64))

    def __iter__(self) -> Iterator[Record]:
        return (Record(**row) for row in self.table.to_pylist())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __repr__(self) -> str:
        return repr(list(self))

    def _view(self, rows: range) -> Columns:
        """Those of the records of the whole table that are in these rows of it."""
        view = copy.copy(self)
        view._rows = rows
        return view

    def take(self, places: Numbers) -> Columns:
        """The records at these places, (M,) int64, in this order."""
        return Columns(self.table.take(pa.array(places)))

    def numbers(self, name: str) -> Numbers:
        """A column of numbers, (N,); NaN where a record has none."""
        values: Numbers = self.table[name].to_numpy()
        return values

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which records have the verdict "error", (N,)."""
        return self._whole.failed[self._rows.start : self._rows.stop]

    def values(self) -> int:
        """The number of values in a file of these records, in which an empty list counts as one, or a little more."""
        lists = [column for column in self.table.columns if pa.types.is_list(column.type)]
        return len(self) * len(SCHEMA) + sum(len(pc.list_flatten(column)) for column in lists)

    def draws(self, side: Side) -> NDArray[np.int64]:
        """The number of draws of each record, (N,)."""
        counts: NDArray[np.int64] = pc.list_value_length(self.table[f"{side}_votes"]).to_numpy().astype(np.int64)
        return counts

    def votes(self, side: Side) -> NDArray[np.int64]:
        """The predicted class in each draw, (N, V) with the largest number of draws V; `ABSENT` beyond a record's."""
        votes: NDArray[np.int64] = self._by_draw(side, "votes", ABSENT)
        return votes

    def margins(self, side: Side) -> NDArray[np.float32]:
        """The margin of the true class in each draw, (N, V); NaN beyond a record's last draw."""
        margins: NDArray[np.float32] = self._by_draw(side, "margins", np.nan)
        return margins

    def _by_draw(self, side: Side, name: str, absent: float) -> Numbers:
        counts, flat = self.draws(side), pc.list_flatten(self.table[f"{side}_{name}"]).to_numpy()
        width = int(counts.max(initial=0))
        values = np.full((len(counts), width), absent, dtype=flat.dtype)
        values[np.arange(width) < counts[:, None]] = flat
        return values

    def flag_counts(self) -> dict[str, int]:
        """How often each flag occurs, those first that occur first."""
        return _counts(pc.list_flatten(self.table["flags"]))

    def errors(self) -> Iterator[str | None]:
        """The message of the error of each record, where it has one."""
        return iter(self.table["error"].to_pylist())

    def error_counts(self) -> dict[str, int]:
        """How often each message of an error occurs among the records that failed; "" where there is none."""
        return _counts(pc.fill_null(self.table["error"].filter(pa.array(self.failed)), ""))


class _Whole:
    """A table of which `Columns` show all records or some: a slice of a table takes 8 KB, however short it is."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        failed: NDArray[np.bool_] = pc.equal(self.table["verdict"], "error").to_numpy()
        return failed


def columns_of(records: Sequence[Record]) -> Columns:
    """Records as columns, which they may be already."""
    return records if isinstance(records, Columns) else Columns.of(records)


def _counts(texts: pa.ChunkedArray) -> dict[str, int]:
    if not len(texts):
        return {}
    return {found["values"]: found["counts"] for found in pc.value_counts(texts).to_pylist()}


def digest_of(table: pa.Table) -> str:
    """A sha256 of the values of records, whatever file they are from, and however Arrow keeps them."""
    sha256, silent = hashlib.sha256(), silent_in(table)
    for name in SCHEMA.names:
        if name in silent:
            continue
        sha256.update(f"{name} {table.num_rows}\n".encode())
        _add(table[name], sha256.update)
    return sha256.hexdigest()


def silent_in(table: pa.Table) -> list[str]:
    """Those of the columns `LATER` in which no record has a value."""
    return [name for name in LATER if name not in table.column_names or table[name].null_count == table.num_rows]


def _add(values: pa.ChunkedArray, update: Callable[[bytes], object]) -> None:
    """Adds what tells the values of a column from others: of lists the lengths, of texts each once and its places."""
    if values.null_count:
        update(np.packbits(values.is_null().to_numpy()).tobytes())
    if pa.types.is_list(values.type):
        update(pc.fill_null(pc.list_value_length(values), 0).to_numpy().astype("<i4").tobytes())
        _add(pc.list_flatten(values), update)
    elif pa.types.is_string(values.type):
        encoded = pa.chunked_array([pa.concat_arrays(values.chunks)] if values.num_chunks else [], values.type)
        for chunk in encoded.dictionary_encode().chunks:
            update(json.dumps(chunk.dictionary.to_pylist()).encode())
            update(chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype("<i4").tobytes())
    else:
        filled = pc.fill_null(values, 0) if values.null_count else values
        update(filled.to_numpy().astype(f"<{np.dtype(filled.type.to_pandas_dtype()).str[1:]}").tobytes())


def fault_of(table: pa.Table) -> str | None:
    """The first reason why a table of `SCHEMA` does not hold records that a run could write, or None."""
    return next(_faults(table), None)


def _faults(table: pa.Table) -> Iterator[str]:
    for name in table.column_names:
        if name not in ("flow", "error", *LATER) and table[name].null_count:
            yield f"a record has no '{name}'"
            return
    for name, most in (("index", 2**31), ("label", MOST_CLASSES), ("forwards", 2**63), ("backwards", 2**63)):
        values = table[name].to_numpy()
        yield from _wrong(values, (values < 0) | (values > most - 1), f"a record has the {name} {{}}")
    strange = pc.invert(pc.is_in(table["verdict"], pa.array(VERDICTS)))
    for verdict in table["verdict"].filter(strange).slice(0, 1).to_pylist():
        yield f"a record has the verdict '{verdict[:30]}'"
    told = pc.greater(pc.binary_length(pc.fill_null(table["error"], "")), 0)
    told = pc.and_(told, pc.not_equal(table["verdict"], "error"))
    for verdict in table["verdict"].filter(told).slice(0, 1).to_pylist():
        yield f"a record has the verdict '{verdict}' and an error"
    for side in ("clean", "adv"):
        yield from _faults_of_draws(table[f"{side}_votes"], table[f"{side}_margins"])
    for name in ("linf", "l2", "l1", "seconds", "flow", *LATER):
        values = table[name].drop_null().to_numpy()
        yield from _wrong(values, ~((values >= 0) & (values < np.inf)), f"a record has the {name} {{}}")
    violation = table["violation"].to_numpy()
    yield from _wrong(violation, ~(violation >= 0), "a record has the violation {}")
    flags = table["flags"]
    if pc.list_flatten(flags).null_count or (pc.max(pc.list_value_length(flags)).as_py() or 0) > MOST_FLAGS:
        yield "a record has missing flags or too many of them"


def _faults_of_draws(votes: pa.ChunkedArray, margins: pa.ChunkedArray) -> Iterator[str]:
    counts = [pc.list_value_length(lists).to_numpy() for lists in (votes, margins)]
    if (different := counts[0] != counts[1]).any():
        at = int(different.argmax())
        yield f"a record has {counts[0][at]} votes and {counts[1][at]} margins"
    flat = pc.list_flatten(votes)
    if flat.null_count or ((classes := flat.to_numpy()) < -1).any() or (classes >= MOST_CLASSES).any():
        yield "a record has a vote for no class"
    if pc.list_flatten(margins).null_count:
        yield "a record has a margin that is not a number"


def _wrong(values: Numbers, wrong: NDArray[np.bool_], sentence: str) -> Iterator[str]:
    if wrong.any():
        yield sentence.format(values[wrong.argmax()])
