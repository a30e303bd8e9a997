"""A path at which a dataset is not: the message says where was looked, what lies there, and which path is right."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness import datasets
from harness.config.registry import entries
from harness.errors import UserError


def _files(name: str) -> list[str]:
    """The files of a dataset below its folder, as far as its place is told by them."""
    return {
        "cifar10": ["cifar-10-batches-py/test_batch"],
        "cifar100": ["cifar-100-python/test"],
        "cifar10_sdp": ["X_sdp.npy", "y_sdp.npy"],
        "fashion_mnist": ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
        "mnist": ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"],
        "svhn": ["test_32x32.mat"],
        "imagenet": ["n01440764/ILSVRC2012_val_00000293.JPEG"],
        "folder": ["cat/1.png"],
        "hf": ["test-00000-of-00001.parquet"],
        "npz": ["mine.npz"],
    }[name]


NAMES = sorted({entry.name for entry in entries("datasets")} - {"digits"})
SEARCHED = [name for name in NAMES if name not in ("folder", "hf", "npz")]
"""Datasets whose files have names of their own, so that a better folder can be named."""


def _message(name: str, path: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        datasets.load(name, "test", path)
    text = str(caught.value)
    assert "elete" not in text and "emove" not in text, text
    return text


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_something_else_is_told_with_what_it_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/docs").mkdir(parents=True)
    (tmp_path / "here/letter.txt").write_text("not a dataset")
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", tmp_path / "here"):
        text = _message(name, path)
        assert "it holds docs/, letter.txt" in text and (str(path) in text)
    assert "it is an empty folder" in _message(name, "docs")
    assert "there is no" in _message(name, "docs/absent") and "docs/absent" in _message(name, "docs/absent")
    assert "letter.txt" in _message(name, "letter.txt")
    assert sorted(os.listdir()) == ["docs", "letter.txt"] and not os.listdir("docs")  # nothing was downloaded there


@pytest.mark.parametrize("name", SEARCHED)
def test_the_right_folder_is_named_when_the_path_is_one_level_off(name: str, tmp_path: Path) -> None:
    root = tmp_path / "old/data"
    for file in _files(name):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    (root / "notes/more").mkdir(parents=True)
    for wrong in ("old", "", "old/data/notes", "old/data/notes/more", "old/data/absent"):
        text = _message(name, tmp_path / wrong)
        assert f"Give {root}," in text or f"Give {root}:" in text, text


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_that_is_not_unpacked_is_told(name: str, tmp_path: Path) -> None:
    archive = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}[name]
    (tmp_path / archive).write_bytes(gzip.compress(b"archive"))
    for path in (tmp_path, tmp_path / archive):
        assert f"Unpack {archive} there" in _message(name, path)


@pytest.mark.parametrize(
    ("name", "there", "absent"),
    [
        ("mnist", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"),
        ("fashion_mnist", "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"),
        ("cifar10_sdp", "X_sdp.npy", "y_sdp.npy"),
    ],
)
def test_the_one_file_that_is_missing_is_told(name: str, there: str, absent: str, tmp_path: Path) -> None:
    (tmp_path / there).touch()
    text = _message(name, tmp_path)
    assert f"it does not hold the file {absent}" in text and f"Put it beside {tmp_path / there}," in text


def test_a_file_of_another_split_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").touch()
    text = _message("svhn", tmp_path)
    assert "it does not hold the file test_32x32.mat; it holds train_32x32.mat. Give the folder that does" in text


def test_the_folder_of_one_class_is_told(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "cat/1.png")
    assert "lie in no class folder" in _message("folder", tmp_path / "cat")
    assert len(datasets.load("folder", "test", tmp_path)) == 1


def test_a_split_that_is_elsewhere_is_told(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("L", (3, 3)).save(tmp_path / split / "cat/1.png")
    text = _message("folder", tmp_path)
    assert "contains no test images: it holds train/, val/" in text and "the folder of the classes itself" in text
    assert len(datasets.load("folder", "test", tmp_path / "val")) == 1


def test_an_npz_file_is_named_where_its_folder_is_given(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=np.zeros((1, 2, 2, 1), np.uint8), labels=[0])
    assert "it is a folder; it holds mine.npz" in _message("npz", tmp_path)


def test_a_table_of_another_split_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "train-00000-of-00001.parquet")
    assert "its Parquet files are of train" in _message("hf", tmp_path)
