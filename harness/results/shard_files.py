"""The two files of a shard: records in Parquet, images in safetensors. Whoever wrote them, reading them is bounded.

Both are looked over before they are decoded: how many rows, values and texts the one will unfold to, which tensors of
which shapes the other holds.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors
from torch import Tensor

from harness.guard.untrusted import Unreadable, opened, parse_json
from harness.results.parquet_pages import columns
from harness.results.record import SCHEMA
from harness.suite.limits import MOST_FLAGS, MOST_VALUES

LARGEST_RECORDS, LARGEST_IMAGES, LARGEST_HEADER = 1 << 26, 1 << 30, 1 << 16
"""Bytes of a file of records, of a file of images, and of that file's header."""

MOST_TEXT = 1 << 24
"""Bytes of all texts of a file of records."""

TEXTS = ("verdict", "flags", "error")
PATHS = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in SCHEMA]
"""Of the columns in Parquet."""

CHANNELS, LARGEST_SIDE = (1, 3), 4096
"""Of an image."""

Shapes = dict[str, tuple[int, ...]]


def encode(rows: list[dict[str, Any]], facts: dict[str, str]) -> bytes:
    """Records as the bytes of a file that carries these facts, and their own hash."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    metadata = {**facts, "records_sha256": digest_of(table.to_pylist())}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(cast(dict[bytes | str, bytes | str], metadata)), sink)
    return sink.getvalue().to_pybytes()


def digest_of(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def facts_of(data: bytes) -> dict[str, str]:
    """What a file of records says of itself, before any of it is decoded.

    Raises:
        ValueError: it is no Parquet file.
    """
    return {key.decode(): value.decode() for key, value in (_footer(data).metadata or {}).items()}


def decode(data: bytes, rows: int, votes: int) -> list[dict[str, Any]]:
    """The rows of a file of records, of the types of `SCHEMA`; what they say is not looked at.

    Args:
        rows: how many there must be.
        votes: how many values a list may have.

    Raises:
        ValueError: it is not such a file, or unfolds to more than one has.
    """
    footer = _footer(data)
    if footer.num_rows != rows:
        raise ValueError(f"{footer.num_rows} records for {rows} images")
    paths = [footer.schema.column(place).path for place in range(min(footer.num_columns, len(PATHS) + 1))]
    if paths != PATHS or _understood(footer.schema.to_arrow_schema).remove_metadata() != SCHEMA:
        raise ValueError("its columns are not those of records")
    chunks = columns(data, footer)
    most = rows * max(votes, MOST_FLAGS)
    if sum(column.values for column in chunks) > MOST_VALUES or any(column.values > most for column in chunks):
        raise ValueError("it unfolds to more values than so many images have")
    if sum(column.size for column in chunks) > LARGEST_RECORDS or _understood(_text, data) > MOST_TEXT:
        raise ValueError(f"it unfolds to more than {LARGEST_RECORDS:,} bytes")
    return _understood(_rows, data)


def _footer(data: bytes) -> pq.FileMetaData:
    return _understood(pq.read_metadata, pa.BufferReader(data))


def _text(data: bytes) -> int:
    """Bytes of all texts. They are read as dictionaries: a long one is not written out for every row."""
    paths = [path for path in PATHS if path.partition(".")[0] in TEXTS]
    table = pq.read_table(pa.BufferReader(data), columns=list(TEXTS), read_dictionary=paths, use_threads=False)
    total = 0
    for name in TEXTS:
        for chunk in table[name].chunks:
            texts = pc.list_flatten(chunk) if pa.types.is_list(chunk.type) else chunk
            if not isinstance(texts, pa.DictionaryArray):
                raise ValueError("its texts are no texts")
            lengths = pc.binary_length(texts.dictionary)
            total += pc.sum(pc.cast(lengths.take(texts.indices), pa.int64())).as_py() or 0
    return total


def _rows(data: bytes) -> list[dict[str, Any]]:
    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    table.validate(full=True)
    return table.to_pylist()


def _understood(read: Any, *arguments: Any) -> Any:
    """What Arrow reads; whatever it raises is one fault: the file is none of ours."""
    try:
        return read(*arguments)
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:200]) from error


def shapes_of(path: Path) -> Shapes:
    """The tensors of a file of images, float32, from its header alone.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is no such file, or larger than one can be.
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
        raise Unreadable(f"its header is none of a file of images ({error})") from error
    if 4 * sum(_numel(shape) for shape in shapes.values()) != size:
        raise Unreadable("its header says another size than the file has")
    return shapes


def misfit(shapes: Shapes, rows: int) -> str | None:
    """Why tensors are not the images of so many rows, or None."""
    images = shapes.get("images", ())
    if len(images) != 4 or images[0] != rows or images[1] not in CHANNELS or max(images[2:]) > LARGEST_SIDE:
        return f"{rows} images are expected, and its tensors are {str(shapes)[:120]}"
    flow = (rows, *images[2:], 2)
    if shapes.keys() - {"images", "flow"} or shapes.get("flow", flow) != flow:
        return f"its tensors are {str(shapes)[:120]}"
    return None


def tensors_of(path: Path, first: int | None = None) -> dict[str, Tensor]:
    """The tensors of a file of images, or the first rows of each. Raises as `shapes_of` does."""
    shapes_of(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name)[:first].clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise Unreadable(str(error)[:200]) from error


def _shape(name: str, entry: dict[str, Any]) -> tuple[int, ...]:
    shape, (start, stop) = entry["shape"], entry["data_offsets"]
    if entry["dtype"] != "F32":
        raise ValueError(f"'{name[:30]}' is {str(entry['dtype'])[:10]}, expected F32")
    if not all(type(side) is int and 0 < side < 1 << 31 for side in (*shape, stop)):
        raise ValueError(f"'{name[:30]}' has the shape {str(shape)[:60]}")
    if 4 * _numel(tuple(shape)) != stop - start:
        raise ValueError(f"'{name[:30]}' has not the size of its shape")
    return tuple(shape)


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
