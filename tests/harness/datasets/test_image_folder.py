"""Folders and archives of images: which files are images, and which label each has."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import datasets
from harness.datasets import image_folder
from harness.datasets.image_folder import content_hash, read_labels
from harness.datasets.source import Request
from harness.errors import UserError


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
    path = path.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


Pack = Callable[[Path, dict[str, bytes]], Path]
BOTH = pytest.mark.parametrize("pack", [_write, _zip])

FILES = {"dog/1.png": _png(20), "cat/0002.png": _png(11), "cat/0001.png": _png(10), "cat/notes.txt": b"not an image"}


@BOTH
def test_folder_and_zip_give_the_same_images_in_alphabetical_order(pack: Pack, tmp_path: Path) -> None:
    data = datasets.load("folder", "test", pack(tmp_path / "all", FILES))
    assert (data.classes, data.num_classes) == (["cat", "dog"], 2)
    assert data.labels.tolist() == [0, 0, 1]
    assert data.images.shape == (3, 3, 4, 5)
    assert (data.images[:, 0, 0, 0] * 255).round().tolist() == [10, 11, 20]
    assert (data.images[:, 2] == 1).all()


@BOTH
def test_numbered_folders_have_the_labels_of_their_numbers(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path / "all", {f"{k}/{j}.png": _png(k, "L") for k in range(12) for j in range(2)})
    data = datasets.load("folder", path=path)
    assert data.labels.tolist() == [k for k in range(12) for _ in range(2)]
    assert (data.images[:, 0, 0, 0] * 255).round().tolist() == data.labels.tolist()
    assert data.folders is not None
    assert data.folders.of == read_labels(Request("test", path)).of == {str(k): k for k in range(12)}


@BOTH
def test_a_part_of_the_folders_keeps_the_labels_of_the_whole(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path / "all", FILES | {"unicorn/readme.txt": b""})
    names = ["ant", "bee", "dog", "cat"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    for given in ({"classes": names}, {"classes": tmp_path / "names.txt"}, {"classes": {"cat": 3, "dog": 2}}):
        data = datasets.load("folder", path=path, **given)  # type: ignore[arg-type]
        assert data.labels.tolist() == [2, 3, 3]
        assert data.num_classes == (None if isinstance(given["classes"], dict) else 4)
        assert (data.images[:, 0, 0, 0] * 255).round().tolist() == [20, 10, 11]


def test_so_many_classes_and_fewer_folders_are_a_question(tmp_path: Path) -> None:
    path = _write(tmp_path / "all", FILES)
    assert datasets.load("folder", path=path, num_classes=2).labels.tolist() == [0, 0, 1]
    with pytest.raises(UserError, match=r"there are 2 class folders, and num_classes is 1000. .*`classes:`"):
        datasets.load("folder", path=path, num_classes=1000)


@pytest.mark.parametrize("above", ["", "cifar/"])
def test_split_folders_are_told_apart(above: str, tmp_path: Path) -> None:
    files = {f"{above}{split}/{name}/{i}.png": _png(i) for split, i in (("train", 1), ("test", 2)) for name in "ab"}
    path = _zip(tmp_path / "both", files)
    for split, value in (("train", 1), ("test", 2)):
        data = datasets.load("folder", split, path)  # type: ignore[arg-type]
        assert (data.images[:, 0] * 255).round().unique().tolist() == [value]
        assert data.labels.tolist() == [0, 1]


@BOTH
def test_a_class_without_test_images_keeps_its_label(pack: Pack, tmp_path: Path) -> None:
    files = {f"train/{name}/1.png": _png(1) for name in "abc"} | {f"test/{name}/1.png": _png(1) for name in "ac"}
    data = datasets.load("folder", "test", pack(tmp_path / "all", files))
    assert (data.labels.tolist(), data.num_classes) == ([0, 2], 3)


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    grey = {"a/1.png": _png(7, "L"), "b/1.png": _png(9, "L")}
    assert datasets.load("folder", path=_write(tmp_path / "grey", grey)).images.shape[1] == 1
    mixed = datasets.load("folder", path=_write(tmp_path / "mixed", grey | {"b/2.png": _png(3)}))
    assert mixed.images.shape[1] == 3
    assert (mixed.images[0] * 255).round().unique().tolist() == [7]
    assert (mixed.images[2, :, 0, 0] * 255).round().tolist() == [3, 0, 255]


def test_deep_and_plain_images_are_of_one_scale(tmp_path: Path) -> None:
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 5), 7 * 257, dtype=np.uint16)).save(deep, "PNG")
    path = _write(tmp_path, {"a/1.png": _png(7, "L"), "a/2.png": deep.getvalue()})
    assert datasets.load("folder", path=path).images.unique().tolist() == [np.float32(7) / np.float32(255)]


def test_links_are_followed(tmp_path: Path) -> None:
    _write(tmp_path / "whole", {f"{name}/1.png": _png(1) for name in "abcd"})
    (tmp_path / "part" / "c").mkdir(parents=True)
    (tmp_path / "part" / "a").symlink_to(tmp_path / "whole" / "a")
    (tmp_path / "part" / "c" / "1.png").symlink_to(tmp_path / "whole" / "c" / "1.png")
    data = datasets.load("folder", path=tmp_path / "part")
    assert (data.classes, len(data)) == (["a", "c"], 2)


@pytest.mark.parametrize("target", ["nowhere", ".."])
def test_a_link_that_leads_nowhere_is_told(target: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "all", FILES)
    (path / "cat" / "0003.png").symlink_to(target)
    with pytest.raises(UserError, match=r"the link cat/0003.png is broken or forms a circle"):
        datasets.load("folder", path=path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = _write(tmp_path / "all", FILES)
    (path / "cat").chmod(0)
    with pytest.raises(UserError, match=r"cat cannot be read: Permission denied"):
        datasets.load("folder", path=path)


UNUSABLE: list[tuple[dict[str, bytes], str]] = [
    ({"a/readme.txt": b""}, "contains no test images"),
    ({"1.png": _png(1)}, "contains no test images"),
    ({"train/a/1.png": _png(1)}, "contains no test images"),
    ({"a/1.png": _png(1), "a/2.png": _png(1, size=(6, 4))}, "a/2.png is 6x4 and a/1.png is 5x4"),
    ({"a/1.png": b"nonsense"}, "a/1.png is not a readable image"),
    ({"a/1.png": _png(1)[:-30]}, "a/1.png is not a readable image"),
    ({"a/1.png": _png(1), "b/1.tga": b""}, r"the folder b beside the class folders contains no images \(.png"),
    ({"a/1.png": _png(1), "a/2.gif": b""}, r"a/2.gif has an unsupported image format"),
    ({"a/1.png": _png(1), "a/more/2.png": _png(1)}, "class folders in the top folder and in a/"),
    ({"n1/images/1.png": _png(1), "n2/images/1.png": _png(1)}, "class folders in n1/ and in n2/"),
    ({"x/test/a/1.png": _png(1), "y/test/b/1.png": _png(1)}, "class folders in x/test/ and in y/test/"),
]


@BOTH
@pytest.mark.parametrize(("files", "message"), UNUSABLE)
def test_unusable_folders_are_told(pack: Pack, files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        datasets.load("folder", path=pack(tmp_path / "images", files))
    assert caught.value.where is not None


def test_an_empty_class_folder_is_told(tmp_path: Path) -> None:
    path = _write(tmp_path / "images", FILES)
    (path / "bird").mkdir()
    (path / ".cache").mkdir()
    with pytest.raises(UserError, match="the folder bird beside the class folders contains no images"):
        datasets.load("folder", path=path)
    assert datasets.load("folder", path=path, classes=["bird", "cat", "dog"]).labels.tolist() == [1, 1, 2]


def test_damaged_archives_are_told(tmp_path: Path) -> None:
    path = _zip(tmp_path / "images", FILES)
    whole = path.read_bytes()
    for at in range(0, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            data = datasets.load("folder", path=path)
        except UserError:
            continue
        assert len(data) <= 3


def test_an_archive_that_unfolds_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "LARGEST_FILE", 100)
    with pytest.raises(UserError, match=r"a/1.png has 1,000 bytes, too many for an image"):
        datasets.load("folder", path=_zip(tmp_path / "images", {"a/1.png": bytes(1000)}))


def test_the_content_of_a_folder_is_its_files_wherever_they_lie(tmp_path: Path) -> None:
    folder, archive = _write(tmp_path / "all", FILES), _zip(tmp_path / "all", FILES)
    assert content_hash(folder) == content_hash(archive)
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(folder / name)
    assert content_hash(tmp_path / "linked") == content_hash(folder)
    (folder / "cat" / "0001.png").write_bytes(_png(12))
    assert content_hash(tmp_path / "linked") == content_hash(folder) != content_hash(archive)
