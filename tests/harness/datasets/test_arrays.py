"""Images and labels in .npz files: what is in the file is what is attacked, and nothing is inferred silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness import datasets
from harness.datasets.arrays import read_npz
from harness.errors import UserError

FLOATS = np.zeros((2, 1, 3, 3))


def test_npz_takes_bytes_and_floats(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    labels = np.array([2, 0, 1])
    np.savez(tmp_path / "bytes.npz", images=pixels, labels=labels)
    np.savez(tmp_path / "floats.npz", images=pixels.transpose(0, 3, 1, 2) / 255, labels=labels, classes=["a", "b", "c"])
    first = datasets.load("npz", path=tmp_path / "bytes.npz")
    second = datasets.load("npz", path=tmp_path / "floats.npz")
    assert torch.equal(first.images, second.images)
    assert first.labels.tolist() == second.labels.tolist() == [2, 0, 1]
    assert (first.classes, second.classes) == (["0", "1", "2"], ["a", "b", "c"])


def test_every_byte_is_the_float_nearest_to_its_fraction(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", images=np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), labels=[0])
    found = datasets.load("npz", path=tmp_path / "all.npz").images.flatten()
    assert torch.equal(found, (torch.arange(256, dtype=torch.float64) / 255).float())
    assert torch.equal(found, torch.arange(256, dtype=torch.uint8).float() / 255)


@pytest.mark.parametrize(
    ("arrays", "given", "known"),
    [
        ({}, None, None),
        ({}, 10, 10),
        ({"num_classes": 12}, None, 12),
        ({"num_classes": 12}, 12, 12),
        ({"classes": list("abcdefghij")}, None, 10),
        ({"classes": list("abcdefghij"), "num_classes": np.array([10])}, None, 10),
    ],
)
def test_the_largest_label_does_not_say_how_many_classes_there_are(
    arrays: dict[str, object], given: int | None, known: int | None, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", images=FLOATS, labels=np.array([0, 7]), **arrays)  # type: ignore[arg-type]
    data = datasets.load("npz", path=tmp_path / "data.npz", num_classes=given)
    assert data.num_classes == known
    assert len(data.classes) == (known or 8)


ROUNDING = [np.float32(1) + np.float32(1.2e-7), np.float32(-3e-8), 1 + 9e-7, -9e-7]


@pytest.mark.parametrize("value", ROUNDING)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_what_is_outside_by_rounding_is_clipped(value: float, kind: type, tmp_path: Path) -> None:
    images = np.full((1, 1, 2, 2), 0.5, dtype=kind)
    images[0, 0, 1, 1] = value
    np.savez(tmp_path / "data.npz", images=images, labels=[0])
    found = datasets.load("npz", path=tmp_path / "data.npz").images
    assert found.flatten().tolist() == [0.5, 0.5, 0.5, float(value > 0.5)]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.float32(1.0000012), r"images span 0.0 to 1.000001\d+, up to 1.19e-06 outside \[0, 1\]"),
        (-2e-6, r"images span -2e-06 to 0.0, up to 2e-06 outside \[0, 1\]"),
        (255.0, r"images span 0.0 to 255.0, up to 254 outside \[0, 1\]"),
        (np.nan, "images contain NaN or infinity"),
        (-np.inf, "images contain NaN or infinity"),
    ],
)
def test_what_is_further_outside_is_refused_with_the_excess(value: float, told: str, tmp_path: Path) -> None:
    images = FLOATS.copy()
    images[1, 0, 2, 2] = value
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(2))
    with pytest.raises(UserError, match=told):
        read_npz(tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(2)}, "has no array 'images'"),
        ({"images": FLOATS.astype(int), "labels": np.arange(2)}, "images are int64"),
        ({"images": FLOATS.astype(np.uint16), "labels": np.arange(2)}, "images are uint16"),
        ({"images": np.zeros((2, 1, 8, 8), np.uint8), "labels": np.arange(2)}, "uint8 .2, 1, 8, 8.. Give uint8 .N, H,"),
        (
            {"images": np.zeros((2, 8, 8, 3)), "labels": np.arange(2)},
            "float64 .2, 8, 8, 3.. Give .* floating point .N, C",
        ),
        ({"images": FLOATS, "labels": np.arange(3)}, r"labels are int64 \(3,\)"),
        ({"images": FLOATS, "labels": np.arange(2) / 2}, "labels are float64"),
        ({"images": FLOATS, "labels": np.array([0, -1])}, "label -1 is negative"),
        ({"images": FLOATS, "labels": np.array([0, 2**63], dtype=np.uint64)}, "label 9223372036854775808 is too large"),
        ({"images": FLOATS[:0], "labels": np.arange(0)}, "no images"),
        ({"images": FLOATS, "labels": np.array([0, 5]), "classes": ["a"]}, "label 5 does not belong to 1 classes"),
        ({"images": FLOATS, "labels": np.array([0, 5]), "num_classes": 5}, "label 5 does not belong to 5 classes"),
        ({"images": FLOATS, "labels": np.arange(2), "classes": "ab"}, "'classes' is not a list"),
        ({"images": FLOATS, "labels": np.arange(2), "num_classes": 2.5}, "'num_classes' is not a number"),
        (
            {"images": FLOATS, "labels": np.arange(2), "classes": ["a", "b"], "num_classes": 3},
            "there are 2 classes by 'classes' in the file, 3 classes by 'num_classes' in the file",
        ),
        ({"images": np.array([None]), "labels": np.arange(1)}, "not a readable .npz.*allow_pickle"),
    ],
)
def test_unusable_arrays_are_told(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UserError, match=message):
        datasets.load("npz", path=tmp_path / "data.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"plain text", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_archive_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable \.npz file"):
        datasets.load("npz", path=tmp_path / "data.npz")


def test_an_archive_with_a_flipped_byte_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).random((2, 1, 8, 8)), labels=np.arange(2))
    whole = path.read_bytes()
    for at in range(60, len(whole) // 2, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(UserError):
            datasets.load("npz", path=path)
