"""Torch files byte by byte, as tests of the readers make them; and weights by a rule that needs no file."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def by_rule(name: str, shape: list[int], j: int) -> Tensor:
    """The j-th tensor of a published tiny file."""
    v = torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + 1.3 * j + 0.1).reshape(shape)
    if len(shape) == 1:
        return 1 + 0.05 * v if name.endswith("weight") else 0.05 * v
    return v * math.sqrt(2 * shape[0] / math.prod(shape))


def weigh(network: nn.Module) -> nn.Module:
    """Gives a network weights by the rule, statistics that fit, and evaluation mode."""
    for j, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            value = by_rule(name, list(tensor.shape), j)
            tensor.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return network.eval()


def legacy_bytes(expression: bytes, keys: Sequence[str] = (), tail: bytes = b"", little_endian: bool = True) -> bytes:
    """A legacy torch file around the opcodes that push one value."""
    facts = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    head = LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps(facts, 2)
    return head + b"\x80\x02" + expression + b"." + pickle.dumps(list(keys), 2) + tail


def zip_bytes(expression: bytes, records: Mapping[str, bytes] | None = None) -> bytes:
    """A torch zip file around the opcodes that push one value, with the records given."""
    content = {"archive/data.pkl": b"\x80\x02" + expression + b".", "archive/version": b"3\n"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (content | dict(records or {})).items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Opcodes:
    """A pickle, opcode by opcode."""

    @staticmethod
    def text(value: str) -> bytes:
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded

    @staticmethod
    def blob(value: bytes) -> bytes:
        return b"B" + struct.pack("<I", len(value)) + value

    @staticmethod
    def number(value: int) -> bytes:
        encoded = pickle.encode_long(value)
        return b"\x8a" + bytes([len(encoded)]) + encoded

    @staticmethod
    def name(module: str, name: str) -> bytes:
        return f"c{module}\n{name}\n".encode()

    @classmethod
    def stacked_name(cls, module: str, name: str) -> bytes:
        return cls.text(module) + cls.text(name) + b"\x93"

    @staticmethod
    def tuple(*items: bytes) -> bytes:
        return b"(" + b"".join(items) + b"t"

    @classmethod
    def call(cls, function: bytes, *arguments: bytes) -> bytes:
        return function + cls.tuple(*arguments) + b"R"

    @classmethod
    def dict(cls, **items: bytes) -> bytes:
        return b"}(" + b"".join(cls.text(key) + value for key, value in items.items()) + b"u"

    @classmethod
    def storage(cls, numel: int, *view: bytes, kind: str = "FloatStorage", key: str = "0") -> bytes:
        parts = cls.text("storage"), cls.name("torch", kind), cls.text(key), cls.text("cpu"), cls.number(numel)
        return cls.tuple(*parts, *view) + b"Q"

    @classmethod
    def tensor(cls, storage: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
        sizes, strides = (cls.tuple(*map(cls.number, numbers)) for numbers in (size, stride))
        hooks = cls.call(cls.name("collections", "OrderedDict"))
        rebuild = cls.name("torch._utils", "_rebuild_tensor_v2")
        return cls.call(rebuild, storage, cls.number(offset), sizes, strides, b"\x89", hooks)
