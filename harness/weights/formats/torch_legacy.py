"""Reads files of `torch.save` before PyTorch 1.6. Other pickles may contain a single storage in the same layout.

The layout is a sequence of pickles, followed by the bytes of the storages:

    magic number, protocol, facts of the machine, the object, [key of each storage], {elements: int64, bytes} of each
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable, Mapping
from mmap import mmap
from typing import Any

from harness.errors import UserError
from harness.weights.formats import torch_content
from harness.weights.formats.file import FETCH_AGAIN, Source
from harness.weights.formats.limits import Budget
from harness.weights.formats.loaded import Loaded
from harness.weights.formats.pickle_machine import interpret
from harness.weights.formats.tensors import STORAGES, Storage, declared

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
PROTOCOL = 1001


def recognises(source: Source) -> bool:
    """Tells whether the file begins with the magic number of this layout."""
    return source.head.startswith(MAGIC)


def read(source: Source, ema: bool, key: str | None) -> Loaded:
    """Reads the state dict in the file; `torch_content.state_dict` describes the arguments.

    Raises:
        UserError: the file is damaged, holds code, or holds no state dict.
    """
    # PyTorch would read such a file as a tar archive, and before 2.6 it ran the code inside (CVE-2025-32434).
    if tarfile.is_tarfile(source.path):
        raise UserError("The file is also a tar archive, which cannot be read safely", remedy="Do not trust it")
    parse(source.data, torch_content.TABLE, Budget(source.size))
    return torch_content.state_dict(torch_content.load(source, mapped=False), "legacy torch file", ema, key)


def parse(data: bytes | mmap, table: Mapping[str, Any], budget: Budget) -> Any:
    """Returns the object in the layout, with each tensor as a `View` of a `Storage` that has its bytes.

    Args:
        data: the bytes of the whole layout.
        table: the globals that the object may refer to, by name.
        budget: the remaining budget of the file.

    Raises:
        UserError: the layout is damaged, refers to another global, or declares more bytes than it has.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise UserError("A tensor in the file is not stored as PyTorch stores it", remedy=FETCH_AGAIN)
    storages: dict[str, Storage] = {}
    protocol, end = interpret(data, {}, budget, start=len(MAGIC))
    machine, end = interpret(data, {}, budget, start=end)
    if protocol != PROTOCOL or type(machine) is not dict or machine.get("little_endian") is not True:
        raise UserError("The file was written by a machine or a PyTorch that is not supported", remedy=FETCH_AGAIN)
    value, end = interpret(data, table, budget, start=end, persistent=_collect(storages))
    keys, end = interpret(data, {}, budget, start=end)
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise UserError("The file does not list the storages that it uses", remedy=FETCH_AGAIN)
    for key in keys:
        end = _fill(storages[key], data, end)
    return value


def parse_storage(data: Any, budget: Budget) -> Storage:
    """Returns the single storage in `data`, as `torch.storage._load_from_bytes` does.

    Raises:
        ValueError: `data` is not bytes, or holds something else than a storage.
        UserError: for the same reasons as in `parse`.
    """
    if type(data) is not bytes:
        raise ValueError("a storage that is no bytes")
    budget.memory(len(data))
    storage = parse(data, STORAGES, budget)
    if not isinstance(storage, Storage):
        raise ValueError("bytes that hold no storage")
    return storage


def _collect(storages: dict[str, Storage]) -> Callable[[Any], Storage]:
    """Returns the function that turns a persistent id into the storage of its key, and adds it to `storages`."""

    def persistent(reference: Any) -> Storage:
        kind, storage_type, key, _, numel, view = reference
        if kind != "storage" or type(key) is not str or view is not None:
            raise ValueError("a reference to something that is no storage")
        storage = declared(storage_type, numel)
        known = storages.setdefault(key, storage)
        if (known.dtype, known.numel) != (storage.dtype, storage.numel):
            raise ValueError(f"two declarations of storage {key[:50]}")
        return known

    return persistent


def _fill(storage: Storage, data: bytes | mmap, start: int) -> int:
    """Gives a storage its bytes, and returns the position after the last one."""
    begin = start + 8
    end = begin + storage.nbytes
    if end > len(data) or struct.unpack("<q", data[start:begin]) != (storage.numel,):
        raise UserError(
            f"The file ends at byte {len(data):,}, before the {storage.numel:,} elements that it declares",
            remedy=FETCH_AGAIN,
        )
    storage.data, storage.start = data, begin
    return end
