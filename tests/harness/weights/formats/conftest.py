"""Published files remade from their blanked copies, networks saved as their authors save them, and hostile bytes.

A published tiny file is kept without its weights, which a rule makes: with v = sin(0.37 i + 1.3 j + 0.1) for element i
of the j-th tensor, a norm's scale is 1 + 0.05 v, a bias 0.05 v, and any other tensor v sqrt(2 / fan_in), in float32.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import math
import pickle
import signal
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.errors import Place, UserError
from harness.weights import formats

GOLDEN = Path(__file__).parents[3] / "golden"
LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
SECONDS = 10
HEADROOM = 1 << 28


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """The numbers of an original, by the name of their file."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def published(golden, tmp_path_factory) -> Callable[[str], Path]:
    """The path of a published tiny file, by its name."""
    folder = tmp_path_factory.mktemp("published")

    def remake(name: str) -> Path:
        path = folder / name
        if not path.exists():
            content = bytearray(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
            for start, key, shape, j, scale in golden("published_files")[name]["blanked"]:
                weights = (_by_rule(key, shape, j).float() * scale).numpy().tobytes()
                content[start : start + len(weights)] = weights
            path.write_bytes(content)
        return path

    return remake


def _by_rule(name: str, shape: list[int], j: int) -> Tensor:
    v = torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + 1.3 * j + 0.1).reshape(shape)
    if len(shape) == 1:
        return 1 + 0.05 * v if name.endswith("weight") else 0.05 * v
    return v * math.sqrt(2 * shape[0] / math.prod(shape))


@pytest.fixture(scope="session")
def rule_image() -> Callable[..., Tensor]:
    """Images in [0, 1] of a given shape."""
    return lambda *shape: (0.5 + 0.45 * torch.sin(0.11 * torch.arange(math.prod(shape)) + 0.2)).reshape(shape)


@pytest.fixture(scope="session")
def rule_noise() -> Callable[..., Tensor]:
    """Noise of a given shape."""
    return lambda *shape: (math.sqrt(2) * torch.sin(0.7 * torch.arange(math.prod(shape)) + 0.3)).reshape(shape)


@pytest.fixture(scope="session")
def weigh() -> Callable[[nn.Module], nn.Module]:
    """Gives a network weights by the rule, statistics that fit, and evaluation mode."""

    def fill(network: nn.Module) -> nn.Module:
        for j, (name, tensor) in enumerate(network.state_dict().items()):
            if tensor.is_floating_point():
                value = _by_rule(name, list(tensor.shape), j)
                tensor.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
        return network.eval()

    return fill


# --- EDM -----------------------------------------------------------------------------------------------------------


def _reconstruct_persistent_obj(meta: Mapping[str, Any]) -> Any:
    raise AssertionError("the source text of a published file was about to be run")


class _Persistent:
    """Pickles as a module of EDM does: one call that would run the source of its class."""

    def __init__(self, kind: str, state: dict[str, Any]) -> None:
        self.kind, self.state = kind, state

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": self.kind}
        return _reconstruct_persistent_obj, (meta | {"state": self.state},), None


@pytest.fixture
def edm_pickle(monkeypatch) -> Callable[..., bytes]:
    """A network in the layout of EDM: modules by record, torch's own containers by name, tensors by themselves."""
    module = types.ModuleType("torch_utils.persistence")
    monkeypatch.setattr(_reconstruct_persistent_obj, "__module__", module.__name__)
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def record(network: nn.Module, **more: Any) -> Any:
        children = {name: record(child) for name, child in network._modules.items() if child is not None}
        if isinstance(network, nn.ModuleDict):
            container = nn.ModuleDict()
            container._modules.update(children)
            return container
        state = {"training": False, "_parameters": network._parameters, "_buffers": network._buffers}
        state |= {"_non_persistent_buffers_set": network._non_persistent_buffers_set, "_modules": children}
        return _Persistent(type(network).__name__, state | {"skip_scale": np.sqrt(np.float64(0.5))} | more)

    def write(network: nn.Module, arguments: Mapping[str, Any], protocol: int = 4) -> bytes:
        ema = record(network, _init_args=(), _init_kwargs=dict(arguments))
        content = {"ema": ema, "loss_fn": _Persistent("EDMLoss", {"P_mean": -1.2}), "augment_pipe": None}
        return pickle.dumps(content, protocol)

    return write


# --- bytes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def legacy_bytes() -> Callable[..., bytes]:
    """A legacy torch file around the opcodes that push one value."""

    def write(expression: bytes, keys: Sequence[str] = (), tail: bytes = b"", little_endian: bool = True) -> bytes:
        facts = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
        head = LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps(facts, 2)
        return head + b"\x80\x02" + expression + b"." + pickle.dumps(list(keys), 2) + tail

    return write


@pytest.fixture(scope="session")
def zip_bytes() -> Callable[..., bytes]:
    """A torch zip file around the opcodes that push one value, with the records given."""

    def write(expression: bytes, records: Mapping[str, bytes] | None = None) -> bytes:
        content = {"archive/data.pkl": b"\x80\x02" + expression + b".", "archive/version": b"3\n"}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, data in (content | dict(records or {})).items():
                archive.writestr(name, data)
        return buffer.getvalue()

    return write


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


@pytest.fixture(scope="session")
def opcodes() -> type[Opcodes]:
    return Opcodes


FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)
"""A legacy storage of four numbers."""


@pytest.fixture
def tensor_file(opcodes, legacy_bytes, zip_bytes) -> dict[str, tuple[Callable[..., bytes], Callable[..., bytes]]]:
    """By container: how a pickle there pushes a storage of four numbers, and the file around a tensor so pushed."""
    op = opcodes
    reconstruct = op.name("torch_utils.persistence", "_reconstruct_persistent_obj")

    def embedded(numel):
        blob = op.blob(legacy_bytes(op.storage(numel, b"N"), ("0",), FOUR))
        return op.call(op.name("torch.storage", "_load_from_bytes"), blob)

    def edm(tensor):
        state = op.dict(_parameters=op.dict(a=tensor), _buffers=b"}", _modules=b"}", _init_args=b")", _init_kwargs=b"}")
        meta = op.dict(type=op.text("class"), class_name=op.text("A"), state=state)
        return b"\x80\x04" + op.dict(ema=op.call(reconstruct, meta)) + b"."

    return {
        "zip": (op.storage, lambda tensor: zip_bytes(op.dict(a=tensor), {"archive/data/0": FOUR[8:]})),
        "legacy": (lambda numel: op.storage(numel, b"N"), lambda tensor: legacy_bytes(op.dict(a=tensor), ("0",), FOUR)),
        "edm": (embedded, edm),
    }


# --- harm ----------------------------------------------------------------------------------------------------------


class Hung(BaseException):
    """Not an Exception: no handler of the reader's may take it for a fault of the file."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Time, and memory that may be reserved on top of what the process has (where /proc tells)."""

    def ring(*_: Any) -> None:
        raise Hung

    resource = pytest.importorskip("resource", reason="POSIX limits")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HEADROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[..., None]:
    """Reads bytes as a file, and expects an error with the complaint, which is no failed allocation."""

    def read(content: bytes, complaint: str | None = None) -> None:
        path = tmp_path / "hostile.pth"
        path.write_bytes(content)
        with guarded(), pytest.raises(UserError, match=complaint) as caught:
            formats.read(path)
        chain: BaseException | None = caught.value
        while chain is not None:
            assert not isinstance(chain, MemoryError)
            assert "can't allocate" not in str(chain)
            chain = chain.__cause__
        assert caught.value.where == Place(path)

    return read
