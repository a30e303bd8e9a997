"""Tensors that claim more than the file has: none is allocated, none is read beyond its storage."""

from __future__ import annotations

import pickle
import struct

import pytest
import safetensors.torch
import torch

from harness.weights import formats
from helpers.weight_files import Opcodes, legacy_bytes

CONTAINERS = ("zip", "legacy", "edm")
HUGE = 1 << 40
BEYOND = "needs more than the 4 elements"
NEGATIVE = "negative or fractional"


def claims(op, storage):
    """Tensors over four numbers that claim more; `storage(numel)` pushes the storage, in the way of some container."""

    def view(size, stride, offset=0, numel=4):
        return op.tensor(storage(numel), size, stride, offset)

    parameter = op.name("torch._utils", "_rebuild_parameter")
    return {
        "more elements than bytes": (view((4,), (1,), numel=HUGE), "more than its record|before the"),
        "a negative number of elements": (view((0,), (1,), numel=-1), "no known type or size"),
        "a size beyond the storage": (view((5,), (1,)), BEYOND),
        "a huge size": (view((HUGE,), (1,)), BEYOND),
        "sizes whose product overflows": (view((1 << 62, 1 << 62), (0, 0)), BEYOND),
        "a zero among sizes that overflow": (view((0, 1 << 62, 1 << 62), (1, 1, 1)), BEYOND),
        "a stride beyond the storage": (view((2,), (4,)), BEYOND),
        "an offset beyond the storage": (view((1,), (1,), 4), BEYOND),
        "one number expanded to many": (view((1 << 30,), (0,)), BEYOND),
        "a negative size": (view((-4,), (1,)), NEGATIVE),
        "a negative stride": (view((2,), (-1,), 3), NEGATIVE),
        "a negative offset": (view((1,), (1,), -1), NEGATIVE),
        "more strides than sizes": (view((1,), (1, 1)), "1 sizes and 2 strides"),
        "a thousand dimensions": (view((1,) * 1000, (1,) * 1000), "1000 sizes"),
        "a storage that is a number": (op.tensor(b"K\x04", (4,), (1,)), "no storage"),
        "a parameter that is a list": (op.call(parameter, b"]", b"\x89", b"}"), "parameter that is no tensor"),
    }


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_tensor_that_claims_more_than_there_is_is_refused(container, tensor_file, refuse):
    storage, file = tensor_file[container]
    for tensor, complaint in claims(Opcodes, storage).values():
        refuse(file(tensor), complaint)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_file_is_read_where_its_claim_is_true(container, tensor_file, tmp_path):
    storage, file = tensor_file[container]
    (tmp_path / "file").write_bytes(file(Opcodes.tensor(storage(4), (2, 2), (1, 2))))
    assert formats.read(tmp_path / "file").tensors["a"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_cut_anywhere_is_refused(container, tensor_file, refuse):
    storage, file = tensor_file[container]
    whole = file(Opcodes.tensor(storage(4), (4,), (1,)))
    for length in range(1, len(whole), 7):
        refuse(whole[:length])


@pytest.mark.parametrize("name", ["edm_tiny_uncond.pkl", "scoresde_nano_checkpoint.pth"])
def test_a_published_file_cut_anywhere_is_refused(name, published, refuse):
    whole = published(name).read_bytes()
    for share in (0.001, 0.01, 0.1, 0.5, 0.9):
        refuse(whole[: int(share * len(whole))], "damaged|table of contents")
    refuse(whole[:-1], "damaged|table of contents")


def test_tensors_that_share_memory_cannot_outgrow_their_file(tmp_path, refuse):
    shared = torch.zeros(10_000)
    torch.save({f"w{i}": shared for i in range(100)}, tmp_path / "shared")
    refuse((tmp_path / "shared").read_bytes(), "far larger")


def test_no_unsound_legacy_file_is_read(refuse):
    op = Opcodes

    def tensor(numel=4, view=b"N"):
        return op.tensor(op.storage(numel, view), (4,), (1,))

    numbers = struct.pack("<4f", 1, 2, 3, 4)
    data = struct.pack("<q", 4) + numbers
    value, view = op.dict(a=tensor()), op.tuple(op.text("v"), op.number(0), op.number(HUGE))
    sound = legacy_bytes(value, ("0",), data)
    for content, complaint in (
        (legacy_bytes(value, (), data), "does not list"),
        (legacy_bytes(value, ("0", "0"), data), "does not list"),
        (legacy_bytes(value, ("1",), data), "does not list"),
        (legacy_bytes(value, ("0",), struct.pack("<q", HUGE) + numbers), "before the 4 elements"),
        (legacy_bytes(value, ("0",), struct.pack("<q", -4) + numbers), "before the 4 elements"),
        (legacy_bytes(op.dict(a=tensor(), b=tensor(HUGE)), ("0",), data), "two declarations"),
        (legacy_bytes(op.dict(a=tensor(view=view)), ("0",), data), "no storage"),
        (sound.replace(op.text("storage"), op.text("modular")), "no storage"),
        (sound.replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2)), "not supported"),
        (legacy_bytes(value, ("0",), data, little_endian=False), "not supported"),
    ):
        refuse(content, complaint)


# --- safetensors ---------------------------------------------------------------------------------------------------


def headed(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(shape, begin, end, dtype="F32", name="a"):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


ONE = entry([1], 0, 4)
UNSOUND = {
    "a header that is longer than the file": (headed("{" + ONE + "}", bytes(4), 10_000), "header alone has 10,000"),
    "a header just within the limit": (headed("{}", length=100_000_000), "header alone has 100,000,000"),
    "a header that says it is huge": (headed("{}", length=2**63), "not a checkpoint of a known format"),
    "a huge shape": (headed("{" + entry([HUGE], 0, 4) + "}", bytes(4)), "sound safetensors"),
    "a shape that overflows": (headed("{" + entry([HUGE, HUGE], 0, 4) + "}", bytes(4)), "sound safetensors"),
    "a negative shape": (headed("{" + entry([-1], 0, 4) + "}", bytes(4)), "sound safetensors"),
    "offsets beyond the end": (headed("{" + entry([2**38], 0, HUGE) + "}", bytes(4)), "sound safetensors"),
    "offsets backwards": (headed("{" + entry([1], 4, 0) + "}", bytes(4)), "sound safetensors"),
    "tensors that overlap": (headed("{" + ONE + "," + entry([1], 0, 4, name="b") + "}", bytes(4)), "sound safetensors"),
    "a gap": (headed("{" + entry([1], 4, 8) + "}", bytes(8)), "sound safetensors"),
    "bytes left over": (headed("{" + ONE + "}", bytes(8)), "sound safetensors"),
    "an unknown type": (headed("{" + entry([1], 0, 4, "F33") + "}", bytes(4)), "sound safetensors"),
    "brackets in brackets": (headed('{"a":' + "[" * 100_000), "sound safetensors"),
    "no text": (headed(b"{\xff\xfe\xff"), "sound safetensors"),
    "no tensor": (headed('{"a": 3}'), "sound safetensors"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_no_unsound_safetensors_file_is_read(name, refuse):
    refuse(*UNSOUND[name])


def test_a_safetensors_file_cut_anywhere_is_refused(refuse):
    whole = safetensors.torch.save({"a": torch.ones(3), "b": torch.zeros(2)})
    for length in range(1, len(whole), 3):
        refuse(whole[:length])
