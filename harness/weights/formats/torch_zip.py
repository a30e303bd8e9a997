"""Reads files of `torch.save` since PyTorch 1.6: zip archives of a pickle and an uncompressed record per storage."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from harness.errors import UserError
from harness.weights.formats import torch_content
from harness.weights.formats.file import FETCH_AGAIN, Source
from harness.weights.formats.limits import Budget
from harness.weights.formats.loaded import Loaded
from harness.weights.formats.pickle_machine import NO_CODE, interpret
from harness.weights.formats.tensors import Storage, declared

MAGIC = b"PK\x03\x04"
LARGEST_PICKLE = 1 << 26
LARGEST_DIRECTORY = 1 << 24
END, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x07"
LOCAL_LENGTH, END_LENGTH, LOCATOR_LENGTH = 30, 22, 20
LENGTH64 = 56 + LOCATOR_LENGTH
NOT_WRITTEN_BY_TORCH = "torch.save does not write such archives; do not trust the file"


def recognises(source: Source) -> bool:
    """Tells whether the file begins like a zip archive."""
    return source.head.startswith(MAGIC)


def read(source: Source, ema: bool, key: str | None) -> Loaded:
    """Reads the state dict in the file; `torch_content.state_dict` describes the arguments.

    Raises:
        UserError: the archive is damaged, was not written by torch.save, holds code, or holds no state dict.
    """
    _check_end(source)
    try:
        with zipfile.ZipFile(source.path) as archive:
            _check_kind(archive.namelist())
            _check_members(source, archive.infolist())
            _check_pickle(archive, Budget(source.size))
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, RuntimeError, OSError) as error:
        raise UserError(f"The archive is damaged: {error}", remedy=FETCH_AGAIN) from error
    return torch_content.state_dict(torch_content.load(source, mapped=True), "torch zip file", ema, key)


def _check_end(source: Source) -> None:
    """Checks that the archive ends with a directory of a reasonable size, before anything else is read."""
    end = source.data[-END_LENGTH:]
    if not end.startswith(END) or end[-2:] != b"\0\0":
        raise UserError("The archive ends before its table of contents", remedy=FETCH_AGAIN)
    size, start = struct.unpack_from("<II", end, 12)
    stop = source.size - END_LENGTH
    wide = source.data[-END_LENGTH - LENGTH64 : -END_LENGTH]
    if LOCATOR64 in wide:
        stop -= LENGTH64
        size, start = struct.unpack_from("<QQ", wide, 40)
    if size > LARGEST_DIRECTORY:
        raise UserError(f"The archive's table of contents has {size:,} bytes", remedy=NOT_WRITTEN_BY_TORCH)
    if start + size != stop:
        raise UserError("The archive's table of contents is not at its end", remedy=NOT_WRITTEN_BY_TORCH)


def _check_kind(members: list[str]) -> None:
    """Checks that torch.save wrote the archive."""
    records = {name.partition("/")[2] for name in members}
    if "constants.pkl" in records:
        raise UserError("This is a TorchScript program, not a state dict", remedy=NO_CODE)
    if "data.pkl" not in records:
        raise UserError("This is a zip archive, but not one of torch.save", remedy="Unpack it and name what is inside")


def _check_members(source: Source, members: list[zipfile.ZipInfo]) -> None:
    """Checks that every record is uncompressed, lies inside the file, and has a valid name in the same folder."""
    names = {member.filename.casefold() for member in members}
    if len(names) < len(members):
        raise UserError("The archive has two records of one name", remedy=NOT_WRITTEN_BY_TORCH)
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if "" in parts or ".." in parts or parts[0] != members[0].filename.split("/")[0]:
            raise UserError(f"A record of the archive is named {member.filename[:100]!r}", remedy=NOT_WRITTEN_BY_TORCH)
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise UserError(f"The record '{member.filename}' is compressed", remedy=NOT_WRITTEN_BY_TORCH)
        _check_place(source, member)
    if sum(member.file_size for member in members) > source.size:
        raise UserError("The records of the archive are together longer than it is", remedy=NOT_WRITTEN_BY_TORCH)


def _check_place(source: Source, member: zipfile.ZipInfo) -> None:
    """Checks that the record lies inside the file by the record's own header, which is the one PyTorch reads."""
    header = source.data[member.header_offset : member.header_offset + LOCAL_LENGTH]
    lengths = struct.unpack("<HH", header[-4:]) if len(header) == LOCAL_LENGTH else (source.size,)
    end = member.header_offset + LOCAL_LENGTH + sum(lengths) + member.file_size
    if not header.startswith(MAGIC) or end > source.size:
        raise UserError(f"The record '{member.filename}' does not lie inside the archive", remedy=FETCH_AGAIN)


def _check_pickle(archive: zipfile.ZipFile, budget: Budget) -> None:
    """Checks that the pickle refers to tensors only, and that each of them lies inside its record."""
    sizes = {member.filename.partition("/")[2]: member.file_size for member in archive.infolist()}
    top = archive.namelist()[0].split("/")[0]
    if sizes["data.pkl"] > LARGEST_PICKLE:
        raise UserError(f"The archive's pickle has {sizes['data.pkl']:,} bytes", remedy=NOT_WRITTEN_BY_TORCH)
    if "byteorder" in sizes and archive.read(f"{top}/byteorder") != b"little":
        raise UserError("The file was written by a big-endian machine, which is not supported")
    interpret(archive.read(f"{top}/data.pkl"), torch_content.TABLE, budget, persistent=_storage_inside(sizes))


def _storage_inside(sizes: dict[str, int]) -> Callable[[Any], Storage]:
    """Returns the function that turns a persistent id into a storage, which must not be larger than its record."""

    def persistent(reference: Any) -> Storage:
        kind, storage_type, key, _, numel = reference
        storage = declared(storage_type, numel)
        if kind != "storage" or type(key) is not str or storage.nbytes > sizes.get(f"data/{key}", -1):
            raise ValueError(f"storage {str(key)[:50]} declares {numel:,} elements, more than its record holds")
        return storage

    return persistent
