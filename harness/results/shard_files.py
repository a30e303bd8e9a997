"""The two files of a shard: records in Parquet, images in safetensors. Reading untrusted files takes bounded memory.

Both are checked before they are decoded: the numbers of rows, values and texts in the records file, and the names and
shapes of the tensors in the images file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors
from numpy.typing import NDArray

from harness.guard.untrusted import Unreadable, opened, parse_json
from harness.results.columns import digest_of, silent_in
from harness.results.parquet_pages import Column, columns
from harness.results.record import LATER, SCHEMA
from harness.suite.limits import MOST_CLASSES, MOST_FLAGS, MOST_VALUES

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_RECORDS, LARGEST_IMAGES, LARGEST_HEADER = 1 << 26, 1 << 30, 1 << 16
"""The largest sizes in bytes of a records file, of an images file, and of the header of an images file."""

MOST_TEXT = 1 << 24
"""The largest total size in bytes of all texts in a records file."""

TEXTS = ("verdict", "flags", "error")


def _paths(schema: pa.Schema) -> list[str]:
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]


PATHS = _paths(SCHEMA)
"""The paths of the columns in Parquet."""

CHANNELS, LARGEST_SIDE = (1, 3), 4096
"""The allowed numbers of channels, and the largest height and width, of an image."""

Shapes = dict[str, tuple[int, ...]]


def encode(table: pa.Table, facts: dict[str, str]) -> bytes:
    """Encodes records, a table of `SCHEMA`, as a file whose metadata has these facts and the hash of the records."""
    metadata = {**facts, "columns_sha256": digest_of(table)}
    sink = pa.BufferOutputStream()
    written = table.drop_columns(silent_in(table))
    pq.write_table(written.replace_schema_metadata(cast(dict[bytes | str, bytes | str], metadata)), sink)
    return sink.getvalue().to_pybytes()


def rows_digest_of(rows: list[dict[str, Any]]) -> str:
    """The hash of records that files have instead of `columns_sha256` if an earlier version of the harness wrote them.

    It takes a hundred times as long as the other.
    """
    known = [{name: value for name, value in row.items() if name not in LATER or value is not None} for row in rows]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


class RecordsFile:
    """A records file in memory.

    Attributes:
        facts: its metadata.

    Raises:
        ValueError: it is not a Parquet file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._file: pq.ParquetFile = _understood(pq.ParquetFile, pa.BufferReader(data))
        self._footer: pq.FileMetaData = self._file.metadata
        self.facts = _understood(_facts, self._footer)

    def table(self, rows: int, votes: int) -> pa.Table:
        """Decodes the records to a table of `SCHEMA`. The values themselves are not checked.

        Args:
            rows: the required number of rows.
            votes: the largest number of values in a list.

        Raises:
            ValueError: it is not a records file, or would decode to more than the allowed size.
        """
        footer = self._footer
        if footer.num_rows != rows:
            raise ValueError(f"{footer.num_rows} records for {rows} images")
        paths = [footer.schema.column(place).path for place in range(min(footer.num_columns, len(PATHS) + 1))]
        known = pa.schema([field for field in SCHEMA if field.name not in LATER or field.name in paths])
        if paths != _paths(known) or _understood(footer.schema.to_arrow_schema).remove_metadata() != known:
            raise ValueError("its columns are not those of records")
        chunks = columns(self._data, footer)
        most = rows * max(votes, MOST_FLAGS)
        if sum(column.values for column in chunks) > MOST_VALUES or any(column.values > most for column in chunks):
            raise ValueError(f"it decodes to more values than {rows} images can have")
        if sum(column.size for column in chunks) > LARGEST_RECORDS or self._has_too_much_text(chunks):
            raise ValueError(f"it decodes to more than {LARGEST_RECORDS:,} bytes")
        return _understood(self._read)

    def _has_too_much_text(self, chunks: list[Column]) -> bool:
        """Whether the texts take more than `MOST_TEXT` bytes. They are only read if they could."""
        most = sum(column.size + column.dictionary * column.values for column in chunks)
        return most > MOST_TEXT and _understood(_text, self._data) > MOST_TEXT

    def _read(self) -> pa.Table:
        table = self._file.read(use_threads=False)
        table.validate(full=True)
        for name in LATER:
            if name not in table.column_names:
                table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
        return table.replace_schema_metadata(None)


def _facts(footer: pq.FileMetaData) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()}


def _text(data: bytes) -> int:
    """The size of all texts in bytes. They are read as dictionaries, so that no text is copied for every row."""
    paths = [path for path in PATHS if path.partition(".")[0] in TEXTS]
    table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=paths).read(columns=list(TEXTS), use_threads=False)
    total = 0
    for name in TEXTS:
        for chunk in table[name].chunks:
            texts = pc.list_flatten(chunk) if pa.types.is_list(chunk.type) else chunk
            if not isinstance(texts, pa.DictionaryArray):
                raise ValueError("its text columns do not contain text")
            lengths = pc.binary_length(texts.dictionary)
            total += pc.sum(pc.cast(lengths.take(texts.indices), pa.int64())).as_py() or 0
    return total


def _understood(read: Any, *arguments: Any) -> Any:
    """Calls a reader of Arrow, and converts all of its exceptions to ValueError."""
    try:
        return read(*arguments)
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:200]) from error


def shapes_of(path: Path) -> Shapes:
    """Reads the shapes of the float32 tensors in an images file from its header.

    Raises:
        FileNotFoundError: the file does not exist.
        Unreadable: it is not an images file, or is too large.
    """
    with opened(path, LARGEST_IMAGES) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise Unreadable(f"its header has {length:,} bytes")
        header, size = file.read(length), file.seek(0, 2) - 8 - length
    try:
        entries = parse_json(header)
        shapes = {name: _shape(name, entry) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"its header is not that of an images file ({error})") from error
    if 4 * sum(_numel(shape) for shape in shapes.values()) != size:
        raise Unreadable("the size in its header differs from the size of the file")
    return shapes


def misfit(shapes: Shapes, rows: int) -> str | None:
    """The reason why tensors cannot be the images of this number of rows, or None."""
    images = shapes.get("images", ())
    if len(images) != 4 or images[0] != rows or images[1] not in CHANNELS or max(images[2:]) > LARGEST_SIDE:
        return f"{rows} images are expected, and its tensors are {str(shapes)[:120]}"
    flow, counts = (rows, *images[2:], 2), shapes.get("counts", (rows, 2, 2))
    parameters = (rows, *shapes.get("parameters", ())[1:])  # of any shape: the threat model knows its own
    expected = {"images": images, "flow": flow, "parameters": parameters}
    expected |= {"radii": (rows,), "counts": (rows, 2, *counts[2:])}
    if any(shape != expected.get(name) for name, shape in shapes.items()) or not _is_of_classes(counts):
        return f"its tensors are {str(shapes)[:120]}"
    if ("counts" in shapes) != ("radii" in shapes):
        return "it has only one of the counts and the radii of a certificate"
    return None


def _is_of_classes(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and 2 <= shape[2] <= MOST_CLASSES


def tensors_of(path: Path, rows: slice = slice(None)) -> dict[str, Tensor]:
    """The tensors of an images file, or these rows of each. Raises the errors of `shapes_of`."""
    shapes_of(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name)[rows].clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise Unreadable(str(error)[:200]) from error


def arrays_of(path: Path, names: Sequence[str], rows: slice = slice(None)) -> dict[str, NDArray[np.float32]]:
    """Some tensors of an images file, or these rows of each, for code without torch. Raises the errors of `shapes_of`.

    A name that the file does not have is left out.
    """
    known = shapes_of(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_slice(name)[rows].copy() for name in names if name in known}
    except (safetensors.SafetensorError, OSError) as error:
        raise Unreadable(str(error)[:200]) from error


def _shape(name: str, entry: dict[str, Any]) -> tuple[int, ...]:
    shape, (start, stop) = entry["shape"], entry["data_offsets"]
    if entry["dtype"] != "F32":
        raise ValueError(f"'{name[:30]}' is {str(entry['dtype'])[:10]}, expected F32")
    if not all(type(side) is int and 0 < side < 1 << 31 for side in (*shape, stop)):
        raise ValueError(f"'{name[:30]}' has the shape {str(shape)[:60]}")
    if 4 * _numel(tuple(shape)) != stop - start:
        raise ValueError(f"the size of '{name[:30]}' does not match its shape")
    return tuple(shape)


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
