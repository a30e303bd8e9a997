"""One image file: every way of storing an image gives the values that were stored, or is refused in its words."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from harness.datasets import image_file
from harness.datasets.image_file import decode
from harness.errors import UserError

RAMP = np.arange(20, dtype=np.uint8).reshape(4, 5) * 13
COLOURS = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def _saved(
    pixels: np.ndarray | Image.Image, format: str = "PNG", mode: str | None = None, **options: Any
) -> io.BytesIO:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, format, **options)
    stream.seek(0)
    return stream


def _png(width: int, height: int, depth: int, kind: int, rows: bytes, extra: bytes = b"") -> io.BytesIO:
    """A PNG of raw rows, each after its filter's byte. kind: PNG's colour type."""

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


LOSSLESS = ["PNG", "BMP", "TIFF"]


@pytest.mark.parametrize("format", LOSSLESS)
def test_eight_bits_are_read_in_grey_and_in_colour(format: str) -> None:
    for pixels in (RAMP, COLOURS):
        found = decode(_saved(pixels, format))
        assert found.dtype == np.float32
        assert np.array_equal(found, (pixels / 255).astype(np.float32))


def test_webp_without_loss_is_read() -> None:
    assert np.array_equal(decode(_saved(COLOURS, "WEBP", lossless=True)), (COLOURS / 255).astype(np.float32))


def test_jpeg_is_read_in_grey_and_in_colour() -> None:
    for pixels in (RAMP, COLOURS):
        stream = _saved(pixels, "JPEG", quality=95)
        expected = np.asarray(Image.open(stream)) / np.float32(255)
        stream.seek(0)
        assert np.array_equal(decode(stream), expected)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_read_as_grey_to_the_last_bit(format: str) -> None:
    deep = np.array([[0, 1, 255, 256], [32767, 32768, 65534, 65535]], dtype=np.uint16)
    assert np.array_equal(decode(_saved(deep, format)), (deep / 65535).astype(np.float32))


def test_sixteen_bits_are_read_from_both_ends() -> None:
    deep = np.array([[1, 256, 65535]], dtype=">u2")
    big = Image.frombytes("I;16B", (3, 1), deep.tobytes())
    assert np.array_equal(decode(_saved(big, "TIFF")), (deep / 65535).astype(np.float32))


def test_an_image_is_the_same_in_eight_and_in_sixteen_bits() -> None:
    assert np.array_equal(decode(_saved(RAMP)), decode(_saved(RAMP.astype(np.uint16) * 257)))


@pytest.mark.parametrize(("depth", "values"), [(1, [0, 1]), (2, [0, 1, 2, 3]), (4, [0, 5, 10, 15])])
def test_few_bits_reach_from_0_to_1(depth: int, values: list[int]) -> None:
    bits = "".join(f"{value:0{depth}b}" for value in values).ljust(16, "0")
    found = decode(_png(len(values), 1, depth, 0, b"\x00" + int(bits, 2).to_bytes(2, "big")))
    assert np.allclose(found, [[value / (2**depth - 1) for value in values]], atol=1e-7)


def test_black_and_white_is_0_and_1() -> None:
    stripes = RAMP % 2 == 0
    for format in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(decode(_saved(Image.fromarray(stripes), format)), stripes.astype(np.float32))


def test_floating_point_is_read_as_it_is_but_for_rounding() -> None:
    floats = np.array([[0, 0.1, 1 / 3, np.float32(1) + np.float32(1.2e-7)]], dtype=np.float32)
    assert np.array_equal(decode(_saved(floats, "TIFF")), floats.clip(0, 1))
    for wrong, told in ((1.5, r"span 0.0 to 1.5, up to 0.5 outside \[0, 1\]"), (np.nan, "contain NaN")):
        with pytest.raises(UserError, match=told):
            decode(_saved(np.array([[0, wrong]], dtype=np.float32), "TIFF"))


def test_a_palette_is_its_colours() -> None:
    paletted = Image.fromarray(COLOURS).quantize(256)
    assert np.array_equal(decode(_saved(paletted)), np.asarray(paletted.convert("RGB")) / np.float32(255))
    assert decode(_saved(RAMP, mode="P")).shape == RAMP.shape  # one of greys alone is grey
    assert np.array_equal(decode(_saved(RAMP, mode="P")), (RAMP / 255).astype(np.float32))


def test_cmyk_is_converted_as_pillow_does() -> None:
    cmyk = Image.fromarray(COLOURS).convert("CMYK")
    assert np.array_equal(decode(_saved(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")) / np.float32(255))


@pytest.mark.parametrize("pixels", [RAMP, COLOURS], ids=["grey", "colour"])
def test_an_opaque_alpha_channel_is_left_out_and_a_transparent_one_refused(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    image.putalpha(255)
    assert np.array_equal(decode(_saved(image)), (pixels / 255).astype(np.float32))
    image.putpixel((3, 2), (*np.atleast_1d(pixels[2, 3]).tolist(), 254))
    with pytest.raises(UserError, match="transparent in places"):
        decode(_saved(image))


@pytest.mark.parametrize(
    ("pixels", "key"),
    [(RAMP, 13), (COLOURS, (0, 195, 255)), (RAMP.astype(np.uint16) * 257, 13 * 257)],
    ids=["grey", "colour", "deep"],
)
def test_a_transparent_colour_is_refused_where_it_is_used(pixels: np.ndarray, key: Any) -> None:
    assert decode(_saved(pixels, transparency=7 if isinstance(key, int) else (1, 2, 3))).shape == pixels.shape
    with pytest.raises(UserError, match="transparent in places"):
        decode(_saved(pixels, transparency=key))


def test_a_transparent_entry_of_a_palette_is_refused_where_it_is_used() -> None:
    paletted = Image.fromarray(COLOURS).quantize(8)
    used = int(np.asarray(paletted)[0, 0])
    with pytest.raises(UserError, match="transparent in places"):
        decode(_saved(paletted, transparency=used))


def _turned(by: int) -> io.BytesIO:
    exif = Image.Exif()
    exif[0x0112] = by
    return _saved(COLOURS, "JPEG", exif=exif)


def test_an_orientation_tag_that_turns_the_image_is_refused() -> None:
    assert decode(_turned(1)).shape == (4, 5, 3)
    for by in range(2, 9):
        with pytest.raises(UserError, match="EXIF orientation"):
            decode(_turned(by))


DEEP_ROWS = b"\x00" + struct.pack(">4H", 1, 2, 3, 65535)
CLIPPED = "16 bits in each of several channels"


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (_png(1, 1, 16, 2, DEEP_ROWS[:7]), CLIPPED),
        (_png(1, 1, 16, 6, DEEP_ROWS), CLIPPED),
        (_png(1, 1, 16, 4, DEEP_ROWS[:5]), CLIPPED),
        (_saved(np.zeros((2, 2), np.int32), "TIFF"), "numbers of unknown range"),
        (_saved(Image.new("LAB", (2, 2)), "TIFF"), "Pillow's mode LAB"),
        (_saved(Image.fromarray(RAMP), save_all=True, append_images=[Image.fromarray(255 - RAMP)]), "several pictures"),
        (
            _saved(Image.fromarray(RAMP), "TIFF", save_all=True, append_images=[Image.fromarray(255 - RAMP)]),
            "several pictures",
        ),
        (_saved(RAMP, "GIF"), "not a readable image, of PNG"),
        (io.BytesIO(b"nonsense"), "not a readable image, of PNG"),
        (io.BytesIO(_saved(COLOURS).getvalue()[:-30]), "not a readable image"),
        (io.BytesIO(_saved(COLOURS, "JPEG").getvalue()[:-200]), "not a readable image"),
        (_png(10**5, 10**5, 8, 0, b""), "has 100000x100000 pixels|not a readable image: Image size"),
        (_png(5000, 5000, 8, 0, b""), "has 5000x5000 pixels, more than"),
    ],
)
def test_what_has_no_single_reading_is_refused(stream: io.BytesIO, told: str) -> None:
    stream.seek(0)
    with pytest.raises(UserError, match=told):
        decode(stream)


def test_white_as_0_is_heeded_or_refused() -> None:
    deep = _saved(RAMP.astype(np.uint16), "TIFF").getvalue()
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    reversed_ = deep.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    assert reversed_ != deep
    with pytest.raises(UserError, match="white as 0"):
        decode(io.BytesIO(reversed_))
    plain = _saved(RAMP, "TIFF").getvalue()
    found = decode(io.BytesIO(plain.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0))))
    assert np.allclose(found, 1 - RAMP / 255, atol=1e-7)


def test_text_that_unfolds_without_end_is_refused() -> None:
    text = b"comment\x00\x00" + zlib.compress(bytes(2**24))
    with pytest.raises(UserError, match="not a readable image"):
        decode(_png(1, 1, 8, 0, b"\x00\x07", _chunk(b"zTXt", text)))


def test_damage_is_told_and_nothing_else_is_raised_or_warned() -> None:
    """Every third byte of each kind of file, changed: a message, or an image of the same size."""
    for format in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        whole = _saved(COLOURS, format).getvalue()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for at in range(0, len(whole), 3):
                try:
                    found = decode(io.BytesIO(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]))
                except UserError:
                    continue
                assert found.dtype == np.float32
                assert found.min() >= 0
                assert found.max() <= 1


def test_the_bound_on_pixels_is_kept_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [_saved(RAMP, format) for format in LOSSLESS]
    monkeypatch.setattr(image_file, "LARGEST", 19)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    for stream in streams:
        with pytest.raises(UserError, match="has 5x4 pixels, more than 19"):
            decode(stream)
