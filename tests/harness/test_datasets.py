"""Datasets: the embedded split is pinned, folders and arrays are read as documented, and mistakes are told."""

from __future__ import annotations

import io
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from harness import datasets
from harness.catalog import DATASETS
from harness.errors import UserError

FINGERPRINTS = {
    "train": "771d446f9a9b49119dd91eb2ccf90e9056ac59610928b4eabee0bc9335648013",
    "test": "58c542d1928d982106b8806a47d6432c75f2399087e64170e98e0e84d43d1d66",
}


@pytest.mark.parametrize(("split", "size"), [("train", 1297), ("test", 500)])
def test_digits_split_is_pinned(split: datasets.Split, size: int) -> None:
    data = datasets.load("digits", split)
    assert data.images.shape == (size, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert (data.images.min(), data.images.max()) == (0, 1)
    assert datasets.fingerprint(data.images, data.labels) == FINGERPRINTS[split]


def test_digits_splits_are_a_partition_of_the_source() -> None:
    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    ours = torch.cat([train.images, test.images]).flatten(1).mul(16).numpy()
    theirs = load_digits().data
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_select_keeps_order_and_labels() -> None:
    data = datasets.load("digits")
    picked = data.select([7, 3, 7])
    assert torch.equal(picked.images, data.images[[7, 3, 7]])
    assert torch.equal(picked.labels, data.labels[[7, 3, 7]])
    assert picked.num_classes == 10


@pytest.mark.parametrize("index", [-1, 500])
def test_select_refuses_an_index_outside(index: int) -> None:
    with pytest.raises(UserError, match=rf"index {index} is not in .* Valid indices: 0 to 499"):
        datasets.load("digits").select([0, index])


def test_fingerprint_sees_pixels_labels_and_shape() -> None:
    images, labels = torch.rand(4, 1, 2, 2), torch.arange(4)
    moved = images.clone()
    moved[3, 0, 1, 1] += 1e-6
    prints = {
        datasets.fingerprint(images, labels),
        datasets.fingerprint(moved, labels),
        datasets.fingerprint(images, labels.flip(0)),
        datasets.fingerprint(images.view(4, 1, 1, 4), labels),
    }
    assert len(prints) == 4
    assert datasets.fingerprint(images.clone(), labels.clone()) in prints


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [("digit", "test", "Did you mean 'digits'"), ("digits", "val", "train, test"), ("npz", "test", "needs a path")],
)
def test_mistakes_are_told(name: str, split: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        datasets.load(name, split)  # type: ignore[arg-type]


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*absent\.zip"):
        datasets.load("folder", path=tmp_path / "absent.zip")


# --- image folders


def _png(value: int, mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(file, "PNG")
    return file.getvalue()


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


FILES = {"dog/1.png": _png(20), "cat/0002.png": _png(11), "cat/0001.png": _png(10), "cat/notes.txt": b"not an image"}


@pytest.mark.parametrize("pack", [lambda root: _write(root / "all", FILES), lambda root: _zip(root / "all.zip", FILES)])
def test_folder_and_zip_give_the_same_images_in_alphabetical_order(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = datasets.load("folder", "test", pack(tmp_path))
    assert data.classes == ["cat", "dog"]
    assert data.labels.tolist() == [0, 0, 1]
    assert data.images.shape == (3, 3, 4, 5)
    assert (data.images[:, 0, 0, 0] * 255).round().tolist() == [10, 11, 20]
    assert (data.images[:, 2] == 1).all()


@pytest.mark.parametrize("above", ["", "cifar/"])
def test_split_folders_are_told_apart(above: str, tmp_path: Path) -> None:
    files = {f"{above}{split}/{name}/{i}.png": _png(i) for split, i in (("train", 1), ("test", 2)) for name in "ab"}
    path = _zip(tmp_path / "both.zip", files)
    for split, value in (("train", 1), ("test", 2)):
        data = datasets.load("folder", split, path)  # type: ignore[arg-type]
        assert (data.images[:, 0] * 255).round().unique().tolist() == [value]
        assert data.labels.tolist() == [0, 1]


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    grey = {"a/1.png": _png(7, "L"), "b/1.png": _png(9, "L")}
    assert datasets.load("folder", path=_write(tmp_path / "grey", grey)).images.shape[1] == 1
    mixed = datasets.load("folder", path=_write(tmp_path / "mixed", grey | {"b/2.png": _png(3)}))
    assert mixed.images.shape[1] == 3
    assert (mixed.images[0] * 255).round().unique().tolist() == [7]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/readme.txt": b""}, "holds no test images"),
        ({"train/a/1.png": _png(1)}, "holds no test images"),
        ({"a/1.png": _png(1), "a/2.png": _png(1, size=(6, 4))}, "a/2.png is 6x4 and a/1.png is 5x4"),
        ({"a/1.png": b"nonsense"}, "a/1.png is not a readable image"),
    ],
)
def test_unusable_folders_are_told(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        datasets.load("folder", path=_write(tmp_path / "images", files))


# --- arrays


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


FLOATS = np.zeros((2, 1, 3, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(2)}, "has no array 'images'"),
        ({"images": FLOATS + 2, "labels": np.arange(2)}, "images span 2 to 2"),
        ({"images": FLOATS + np.nan, "labels": np.arange(2)}, "images span nan"),
        ({"images": FLOATS.astype(int), "labels": np.arange(2)}, "images are int64"),
        ({"images": FLOATS, "labels": np.arange(3)}, r"labels are int64 \(3,\)"),
        ({"images": FLOATS, "labels": np.arange(2) / 2}, "labels are float64"),
        ({"images": FLOATS, "labels": np.array([0, -1])}, "label -1 is negative"),
        ({"images": FLOATS[:0], "labels": np.arange(0)}, "no images"),
        ({"images": FLOATS, "labels": np.array([0, 5]), "classes": ["a"]}, "label 5 has no name"),
        ({"images": np.array([None]), "labels": np.arange(1)}, "not a readable .npz"),
    ],
)
def test_unusable_arrays_are_told(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UserError, match=message):
        datasets.load("npz", path=tmp_path / "data.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"plain text"])
def test_a_file_that_is_no_archive_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable \.npz file"):
        datasets.load("npz", path=tmp_path / "data.npz")


# --- torchvision


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_without_a_network_the_address_and_the_place_are_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    for offline in (False, True):
        with pytest.raises(UserError) as caught:
            datasets.load(name, offline=offline)
        assert str(tmp_path / name) in caught.value.message
        assert "http" in str(caught.value.remedy)
        assert str(tmp_path / name) in str(caught.value.remedy)


def test_torchvision_files_on_disk_are_read(tmp_path: Path) -> None:
    """The four files of Fashion-MNIST, in its own format: magic number, sizes, bytes."""
    raw = tmp_path / "FashionMNIST" / "raw"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        sizes = np.array([0x803, *pixels.shape], dtype=">i4").tobytes()
        _write(raw, {f"{prefix}-images-idx3-ubyte": sizes + pixels.tobytes()})
        labels = np.array([0x801, 6], dtype=">i4").tobytes() + bytes(range(6))
        _write(raw, {f"{prefix}-labels-idx1-ubyte": labels})
    data = datasets.load("fashion_mnist", "test", tmp_path, offline=True)
    assert np.array_equal((data.images[:, 0] * 255).round().numpy(), pixels)
    assert data.labels.tolist() == list(range(6))
    assert data.classes[9] == "Ankle boot"


def test_a_damaged_torchvision_folder_is_told(tmp_path: Path) -> None:
    _write(tmp_path / "cifar-10-batches-py", {"test_batch": b"cut short"})
    with pytest.raises(UserError, match="is damaged"):
        datasets.load("cifar10", path=tmp_path)


def test_state_knows_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    (tmp_path / "cifar100" / "cifar-100-python").mkdir(parents=True)
    present = {found.name: found.present for found in datasets.state()}
    assert present == {"digits": True, "cifar10": False, "cifar100": True, "fashion_mnist": False}
    assert present.keys() < DATASETS.keys()
