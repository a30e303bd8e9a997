"""Datasets: the embedded split is pinned, folders and arrays are read as documented, and mistakes are told."""

from __future__ import annotations

import gzip
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn.datasets import load_digits
from torch import Tensor

from harness import datasets
from harness.config.registry import entries
from harness.datasets.sources import digits
from harness.datasets.sources.cifar10_sdp import CIFAR10SDP
from harness.defense import Defense
from harness.errors import Place, UserError
from harness.files import digest

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


def test_digits_are_those_that_scikit_learn_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its file is not found, as in a release that keeps it elsewhere."""
    read = digits._table()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    assert np.array_equal(read, digits._table())


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


@pytest.mark.parametrize("name", ["cifar10", "cifar10_sdp", "cifar100", "fashion_mnist", "mnist", "svhn"])
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


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in MNIST's own format: magic number, sizes, bytes."""
    return np.array([0x800 + array.ndim, *array.shape], dtype=">i4").tobytes() + array.tobytes()


def four_files(pack: Callable[[bytes], bytes] = bytes, end: str = "", sign: str = "-") -> dict[str, bytes]:
    labels = np.arange(6, dtype=np.uint8)
    files = {}
    for prefix in ("train", "t10k"):
        files[f"{prefix}-images{sign}idx3-ubyte{end}"] = pack(idx(PIXELS))
        files[f"{prefix}-labels{sign}idx1-ubyte{end}"] = pack(idx(labels))
    return files


@pytest.mark.parametrize("files", [four_files(), four_files(gzip.compress, ".gz"), four_files(sign=".")])
@pytest.mark.parametrize("inside", ["", "raw", "MNIST", "MNIST/raw"])
def test_the_four_files_are_read_wherever_they_usually_lie(
    inside: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    _write(tmp_path / inside, files)
    data = datasets.load("mnist", "test", tmp_path, offline=True)
    assert np.array_equal((data.images[:, 0] * 255).round().numpy(), PIXELS)
    assert data.labels.tolist() == list(range(6)) and data.num_classes == 10


@pytest.mark.parametrize(
    ("name", "folder", "last"), [("fashion_mnist", "FashionMNIST", "Ankle boot"), ("mnist", "MNIST", "9 - nine")]
)
def test_of_two_datasets_in_one_folder_each_is_found(name: str, folder: str, last: str, tmp_path: Path) -> None:
    for other in ("FashionMNIST", "MNIST"):
        _write(tmp_path / other / "raw", four_files() if other == folder else {})
    assert datasets.load(name, "test", tmp_path, offline=True).classes[9] == last


def test_one_split_is_enough_for_itself(tmp_path: Path) -> None:
    _write(tmp_path, {name: content for name, content in four_files().items() if name.startswith("t10k")})
    assert len(datasets.load("mnist", "test", tmp_path)) == 6
    with pytest.raises(UserError, match="it does not hold the files train-images-idx3-ubyte and train-labels-idx1"):
        datasets.load("mnist", "train", tmp_path)


def test_a_folder_without_the_files_is_kept_and_the_right_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("not a dataset")
    for name in ("mnist", "cifar10", "svhn"):
        with pytest.raises(UserError) as caught:
            datasets.load(name, "test", ".")
        assert f"dataset '{name}' is not in .: it does not hold" in caught.value.message
        assert "Give the folder that does, or leave `path:` out" in str(caught.value.remedy)
        assert "elete" not in str(caught.value)
    _write(tmp_path / "old" / "digits", four_files())
    with pytest.raises(UserError, match=r"Give old/digits, or leave"):
        datasets.load("mnist", "test", ".")
    with pytest.raises(UserError, match=r"is not in old/digits/absent: there is no such .* Give .*old/digits,"):
        datasets.load("mnist", "test", "old/digits/absent")  # although the folder above has them
    assert len(datasets.load("mnist", "test", "old/digits/t10k-images-idx3-ubyte")) == 6
    assert sorted(os.listdir(tmp_path)) == ["mine.txt", "old"]  # nothing was downloaded into it


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte", b"cut short", "not an IDX file of 3 dimensions of bytes"),
        ("t10k-images-idx3-ubyte", idx(PIXELS)[:-1], r"its head announces \(6, 28, 28\), and 4,703 bytes follow"),
        ("t10k-labels-idx1-ubyte", idx(PIXELS), "not an IDX file of 1 dimensions"),
        ("t10k-labels-idx1-ubyte", idx(np.arange(5, dtype=np.uint8)), "there are 6 images and 5 labels"),
        ("t10k-images-idx3-ubyte", gzip.compress(idx(PIXELS))[:-9], "it cannot be read"),
    ],
)
def test_damaged_files_are_told(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    _write(tmp_path, four_files() | {name: content})
    with pytest.raises(UserError, match=message):
        datasets.load("mnist", "test", tmp_path)


def test_files_of_another_dataset_with_the_same_names_are_refused(tmp_path: Path) -> None:
    labels = np.zeros(10_000, dtype=np.uint8)
    labels[:6] = [9, 2, 1, 1, 6, 1]
    files = {"t10k-images-idx3-ubyte": np.zeros((10_000, 1, 1), dtype=np.uint8), "t10k-labels-idx1-ubyte": labels}
    _write(tmp_path, {name: idx(array) for name, array in files.items()})
    assert len(datasets.load("fashion_mnist", "test", tmp_path)) == 10_000
    with pytest.raises(UserError, match=r"not the files of 'mnist', whose first test labels are \[7, 2, 1, 0, 4, 1\]"):
        datasets.load("mnist", "test", tmp_path)


def test_a_damaged_torchvision_folder_is_told(tmp_path: Path) -> None:
    _write(tmp_path / "cifar-10-batches-py", {"test_batch": b"cut short"})
    for path in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(UserError, match=r"cifar-10-batches-py is damaged.*Unpack http.* again in its place"):
            datasets.load("cifar10", path=path)


def test_svhn_is_read_from_matlabs_files_with_zero_as_class_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9], [10]], dtype=np.uint8)})
    with pytest.raises(UserError, match=r"test_32x32.mat is damaged"):  # its MD5 is not the published one
        datasets.load("svhn", "test", tmp_path)
    monkeypatch.setattr("torchvision.datasets.SVHN._check_integrity", lambda self: True)
    data = datasets.load("svhn", "test", tmp_path)
    assert data.labels.tolist() == [0, 1, 9, 0] and data.classes[0] == "0"
    assert np.array_equal((data.images[2] * 255).round().numpy(), pixels[..., 2].transpose(2, 0, 1))


def test_the_verifiers_images_are_told_by_their_hash(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).random((200, 32, 32, 3)).astype(np.float32), np.arange(200) % 10
    np.save(tmp_path / "X_sdp.npy", images)
    np.save(tmp_path / "y_sdp.npy", labels)
    with pytest.raises(UserError, match=r"X_sdp.npy: it is not the published file: its SHA-256 is"):
        datasets.load("cifar10_sdp", "test", tmp_path)
    with pytest.raises(UserError, match="has no split that is called 'train'"):
        datasets.load("cifar10_sdp", "train", tmp_path)


def test_the_verifiers_images_are_turned_to_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = np.random.default_rng(0).random((7, 32, 32, 3)).astype(np.float32), np.arange(7)
    np.save(tmp_path / "X_sdp.npy", images)
    np.save(tmp_path / "y_sdp.npy", labels)
    hashes = {name: digest(tmp_path / name) for name in ("X_sdp.npy", "y_sdp.npy")}
    monkeypatch.setattr(CIFAR10SDP, "files", hashes)
    data = datasets.load("cifar10_sdp", "test", tmp_path)
    assert np.array_equal(data.images.numpy(), images.transpose(0, 3, 1, 2)) and data.labels.tolist() == list(range(7))


def test_state_knows_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    (tmp_path / "cifar100" / "cifar-100-python").mkdir(parents=True)
    present = {found.name: found.present for found in datasets.state()}
    assert present == {name: name in ("digits", "cifar100") for name in present}
    assert present.keys() >= {"digits", "cifar10", "cifar10_sdp", "cifar100", "fashion_mnist", "mnist", "svhn"}
    assert present.keys() < {entry.name for entry in entries("datasets")}
