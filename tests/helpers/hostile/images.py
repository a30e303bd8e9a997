"""Files of images whose hash the records have, with other content than a run would write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from helpers.hostile.places import PLACES, Spoil
from helpers.hostile.records import records


def images(make: Callable[[], bytes | dict[str, torch.Tensor]]) -> Spoil:
    """Another file of images, whose hash the records have."""

    def spoil(root: Path) -> None:
        made = make()
        (root / PLACES["images"]).write_bytes(made if isinstance(made, bytes) else safetensors.torch.save(made))
        records(lambda rows: None)(root)

    return spoil


def header(content: str | bytes, body: bytes = b"") -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return len(raw).to_bytes(8, "little") + raw + body


def shaped(*shape: int, **more: torch.Tensor) -> Spoil:
    return images(lambda: {"images": torch.zeros(shape), **more})


def huge_images(root: Path) -> None:
    """A sparse file whose header promises two images of half a gigabyte each, and holds that."""
    shape = [2, 1, 11_585, 11_585]
    size = 4 * shape[2] * shape[3] * 2
    entry = {"images": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    images(lambda: header(json.dumps(entry)))(root)
    with (root / PLACES["images"]).open("r+b") as file:
        file.truncate(8 + len(json.dumps(entry)) + size)


IMAGES: dict[str, Spoil] = {
    "not safetensors": images(lambda: b"x" * 100),
    "a header of an exabyte": images(lambda: b"\xff" * 7 + b"\x0f{}"),
    "a header that is no JSON": images(lambda: header("{")),
    "a header nested deep": images(lambda: header("[" * 30_000)),
    "a header without a shape": images(lambda: header('{"images": {}}')),
    "a shape of negatives": images(
        lambda: header('{"images": {"dtype": "F32", "shape": [2, -1, -8, 8], "data_offsets": [0, 512]}}', b"\0" * 512)
    ),
    "a shape beyond 64 bits": images(
        lambda: header('{"images": {"dtype": "F32", "shape": [2, 1, 99999999999999999999, 8], "data_offsets": [0, 8]}}')
    ),
    "offsets beyond the end": images(
        lambda: header('{"images": {"dtype": "F32", "shape": [2, 1, 8, 8], "data_offsets": [0, 512]}}')
    ),
    "half floats": images(lambda: {"images": torch.zeros(2, 1, 8, 8, dtype=torch.float16)}),
    "whole numbers": images(lambda: {"images": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}),
    "no images": images(lambda: {"pictures": torch.zeros(2, 1, 8, 8)}),
    "no tensor": images(lambda: {}),
    "one image": shaped(1, 1, 8, 8),
    "seven channels": shaped(2, 7, 8, 8),
    "larger images": shaped(2, 1, 16, 16),
    "coloured images": shaped(2, 3, 8, 8),
    "vectors": shaped(2, 64),
    "images of nothing": images(lambda: {"images": torch.zeros(2, 1, 0, 8)}),
    "a flow of another size": shaped(2, 1, 8, 8, flow=torch.zeros(2, 3, 3, 2)),
    "a flow without numbers": shaped(2, 1, 8, 8, flow=torch.full((2, 8, 8, 2), torch.nan)),
    "images without numbers": images(lambda: {"images": torch.full((2, 1, 8, 8), torch.nan)}),
    "images without an end": images(lambda: {"images": torch.full((2, 1, 8, 8), torch.inf)}),
    "two half gigabytes": huge_images,
}
