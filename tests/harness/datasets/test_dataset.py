"""Datasets: the embedded split is pinned, folders and arrays are read as documented, and mistakes are told."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from harness import datasets
from harness.config.registry import entries
from harness.defense import Defense
from harness.errors import Place, UserError

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


# --- classes


class Tells(Defense):
    """A defense that says how many classes it tells apart, or does not."""

    def __init__(self, count: int | None) -> None:
        super().__init__()
        self.num_classes = count

    def classify(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("known", "count", "told"),
    [
        (10, 10, None),
        (10, None, None),
        (10, 12, "has 12 classes, dataset 'mine' has 10"),
        (10, 8, "has 8 classes, dataset 'mine' has 10"),
        (None, 8, None),
        (None, 1000, None),
        (None, None, None),
        (None, 7, "has 7 classes, dataset 'mine' has images of label 7"),
    ],
)
def test_a_defense_of_other_classes_is_refused(known: int | None, count: int | None, told: str | None) -> None:
    images, labels = torch.zeros(2, 1, 1, 1), torch.tensor([0, 7])
    data = datasets.Dataset("mine", "test", images, labels, [], known)
    if told is None:
        data.refuse_classes_of(Tells(count), "defense 'a'", Place(Path("suite.yaml"), 3))
    else:
        with pytest.raises(UserError, match=rf"suite.yaml:3: defense 'a' {told}"):
            data.refuse_classes_of(Tells(count), "defense 'a'", Place(Path("suite.yaml"), 3))


@pytest.mark.parametrize("given", [{"classes": ["a"]}, {"num_classes": 10}])
def test_a_dataset_that_knows_its_classes_takes_none(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"'digits' defines its own classes. Remove `{next(iter(given))}:`"):
        datasets.load("digits", **given)


def test_a_stranger_on_disk_is_no_dataset(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    for name in ("folder", "npz"):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            datasets.load(name, path=tmp_path / "pipe")


# --- torchvision


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "mnist"])
def test_without_a_network_the_address_and_the_place_are_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    for offline in (False, True):
        with pytest.raises(UserError) as caught:
            datasets.load(name, offline=offline)
        assert str(tmp_path / name) in caught.value.message
        assert "http" in str(caught.value.remedy)
        assert str(tmp_path / name) in str(caught.value.remedy)


def _write(root: Path, files: dict[str, bytes]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "folder", "last"), [("fashion_mnist", "FashionMNIST", "Ankle boot"), ("mnist", "MNIST", "9 - nine")]
)
def test_torchvision_files_on_disk_are_read(name: str, folder: str, last: str, tmp_path: Path) -> None:
    """The four files of MNIST and its like, in their own format: magic number, sizes, bytes."""
    raw = tmp_path / folder / "raw"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        sizes = np.array([0x803, *pixels.shape], dtype=">i4").tobytes()
        _write(raw, {f"{prefix}-images-idx3-ubyte": sizes + pixels.tobytes()})
        labels = np.array([0x801, 6], dtype=">i4").tobytes() + bytes(range(6))
        _write(raw, {f"{prefix}-labels-idx1-ubyte": labels})
    data = datasets.load(name, "test", tmp_path, offline=True)
    assert np.array_equal((data.images[:, 0] * 255).round().numpy(), pixels)
    assert data.labels.tolist() == list(range(6))
    assert data.classes[9] == last


def test_a_damaged_torchvision_folder_is_told(tmp_path: Path) -> None:
    _write(tmp_path / "cifar-10-batches-py", {"test_batch": b"cut short"})
    with pytest.raises(UserError, match="is damaged"):
        datasets.load("cifar10", path=tmp_path)


def test_state_knows_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    (tmp_path / "cifar100" / "cifar-100-python").mkdir(parents=True)
    present = {found.name: found.present for found in datasets.state()}
    assert present == {"digits": True, "cifar10": False, "cifar100": True, "fashion_mnist": False, "mnist": False}
    assert present.keys() < {entry.name for entry in entries("datasets")}
