"""Published files remade from their blanked copies, networks saved as their authors save them, and hostile bytes.

A published tiny file is kept without its weights, which a rule makes: with v = sin(0.37 i + 1.3 j + 0.1) for element i
of the j-th tensor, a norm's scale is 1 + 0.05 v, a bias 0.05 v, and any other tensor v sqrt(2 / fan_in), in float32.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import pickle
import signal
import struct
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.errors import Place, UserError
from harness.weights import formats
from helpers.weight_files import Opcodes, by_rule, legacy_bytes, zip_bytes

GOLDEN = Path(__file__).parents[3] / "golden"
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
                weights = (by_rule(key, shape, j).float() * scale).numpy().tobytes()
                content[start : start + len(weights)] = weights
            path.write_bytes(content)
        return path

    return remake


@pytest.fixture(scope="session")
def rule_image() -> Callable[..., Tensor]:
    """Images in [0, 1] of a given shape."""
    return lambda *shape: (0.5 + 0.45 * torch.sin(0.11 * torch.arange(math.prod(shape)) + 0.2)).reshape(shape)


@pytest.fixture(scope="session")
def rule_noise() -> Callable[..., Tensor]:
    """Noise of a given shape."""
    return lambda *shape: (math.sqrt(2) * torch.sin(0.7 * torch.arange(math.prod(shape)) + 0.3)).reshape(shape)


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


FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)
"""A legacy storage of four numbers."""


@pytest.fixture
def tensor_file() -> dict[str, tuple[Callable[..., bytes], Callable[..., bytes]]]:
    """By container: how a pickle there pushes a storage of four numbers, and the file around a tensor so pushed."""
    op = Opcodes
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
