"""Zip archives that torch.save would not write: bombs, lies in the headers, names that lead elsewhere."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile

from harness.weights import formats
from helpers.weight_files import Opcodes

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
NUMBERS = ("a/data/0", struct.pack("<4f", 1, 2, 3, 4))
VERSION = ("a/version", b"3\n")


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of (name, bytes) pairs, whose names are written as they are."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")
        for name, data in members:
            info = zipfile.ZipInfo("x")
            info.filename = name
            file.writestr(info, data, compression)
    return buffer.getvalue()


def patched(content: bytes, signature: bytes, offset: int, value: bytes, which: int = -1) -> bytes:
    """The archive with some bytes of one of its headers overwritten; by default, of the last such header."""
    starts = [i for i in range(len(content)) if content.startswith(signature, i)]
    start = starts[which] + offset
    return content[:start] + value + content[start + len(value) :]


def unsound(op):
    """Archives, and what is said of them."""
    value = op.dict(a=op.tensor(op.storage(4), (4,), (1,)))
    pickled = ("a/data.pkl", b"\x80\x02" + value + b".")
    sound = archive(pickled, VERSION, NUMBERS)
    bomb = archive(pickled, VERSION, ("a/data/0", bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED)
    second = sound.rfind(CENTRAL)
    stored = patched(patched(bomb, CENTRAL, 10, b"\0\0"), LOCAL, 8, b"\0\0")
    for which in (0, 1):
        stored = patched(patched(stored, CENTRAL, 10, b"\0\0", which), LOCAL, 8, b"\0\0", which)
    big = ("a/data/0", bytes(1000))
    double = patched(archive(pickled, VERSION, big, ("a/data/1", bytes(1000))), CENTRAL, 42, struct.pack("<I", 0))
    return {
        "a bomb": (bomb, "is compressed"),
        "a bomb that says it is stored": (stored, "is compressed"),
        "a record that says it is huge": (
            patched(sound, CENTRAL, 20, struct.pack("<II", 2**32 - 2, 2**32 - 2)),
            "not lie inside",
        ),
        "a record beyond the end": (patched(sound, CENTRAL, 42, struct.pack("<I", 2**31)), "not lie inside"),
        "a record moved by its own header": (patched(sound, LOCAL, 28, b"\xff\xff"), "not lie inside"),
        "records that overlap": (
            patched(double, CENTRAL, 20, struct.pack("<II", len(double) - 60, len(double) - 60)),
            "together longer",
        ),
        "a directory that says it is huge": (patched(sound, END, 12, struct.pack("<I", 2**31)), "2,147,483,648 bytes"),
        "a directory that is elsewhere": (patched(sound, END, 16, struct.pack("<I", second)), "not at its end"),
        "a wide directory that is elsewhere": (
            sound[:-22] + bytes(56) + b"PK\x06\x07" + bytes(16) + sound[-22:],
            "not at its end",
        ),
        "bytes before the archive": (LOCAL + bytes(40) + sound, "not at its end"),
        "a comment": (sound[:-2] + b"\x04\0" + b"PK!!", "ends before"),
        "an encrypted pickle": (patched(sound, CENTRAL, 8, b"\x01\0", 0), "is encrypted"),
        "a damaged pickle": (sound.replace(b"FloatStorage", b"FloatStoragf", 1), "Bad CRC"),
        "traversal": (archive(pickled, NUMBERS, ("a/../../evil", b"x")), "is named 'a/../../evil'"),
        "an absolute name": (archive(pickled, NUMBERS, ("/etc/evil", b"x")), "is named '/etc/evil'"),
        "a name of another system": (archive(pickled, NUMBERS, ("a\\..\\..\\evil", b"x")), "is named"),
        "two records of one name": (archive(pickled, NUMBERS, NUMBERS), "two records"),
        "two records but for the case": (archive(pickled, NUMBERS, ("a/DATA.PKL", b"\x80\x02N.")), "two records"),
        "two archives in one": (archive(pickled, NUMBERS, ("b/data.pkl", b"\x80\x02N.")), "is named 'b/data.pkl'"),
        "no record for a storage": (archive(pickled), "more than its record"),
        "a record that is too short": (archive(pickled, ("a/data/0", b"1234")), "more than its record"),
        "another byte order": (archive(pickled, NUMBERS, ("a/byteorder", b"big")), "big-endian"),
        "a reference to no storage": (
            archive((pickled[0], pickled[1].replace(b"storage", b"Storage", 1)), NUMBERS),
            "more than its record",
        ),
    }


def test_the_archive_that_the_hostile_ones_are_made_of_is_read(tmp_path):
    value = Opcodes.dict(a=Opcodes.tensor(Opcodes.storage(4), (4,), (1,)))
    (tmp_path / "sound").write_bytes(archive(("a/data.pkl", b"\x80\x02" + value + b"."), VERSION, NUMBERS))
    assert formats.read(tmp_path / "sound").tensors["a"].tolist() == [1, 2, 3, 4]


def test_no_archive_that_torch_would_not_write_is_read(refuse):
    for content, complaint in unsound(Opcodes).values():
        refuse(content, complaint)
