"""Datasets of Hugging Face: local tables are read by our own code, the hub's by the package, mistakes are told."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms

from harness.datasets.by_name import load_section
from harness.datasets.spec import Dataset as Section
from harness.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 2, 0]
NAMES = ["ant", "bee", "cat"]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(rows: slice = slice(None), image: str = "img", **more: Any) -> pa.Table:
    """A table as the package writes it, features in the metadata of its schema."""
    images = [{"bytes": _png(pixels), "path": None} for pixels in PIXELS[rows]]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {image: pa.array(images, kind), "label": pa.array(LABELS[rows], pa.int64())}
    columns |= {name: pa.array(values) for name, values in more.items()}
    features = {image: {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table(columns).replace_schema_metadata(metadata)


def _stream(file: Path, content: pa.Table) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content)


def saved(folder: Path, split: str = "test") -> Path:
    """A folder as `save_to_disk` writes it, in two files."""
    folder.mkdir(parents=True)
    files = []
    for part, rows in enumerate([slice(0, 4), slice(4, 6)]):
        files.append({"filename": f"data-{part:05d}-of-00002.arrow"})
        _stream(folder / files[-1]["filename"], table(rows))
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": split}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _load(path: Path | None, **keys: Any) -> Any:
    section = Section.model_validate({"name": "hf", "path": path, **keys})
    return load_section(section, None, section.choose)


def _write(layout: str, root: Path) -> Path:
    if layout == "one parquet file":
        pq.write_table(table(), root / "mine.parquet")
        return root / "mine.parquet"
    if layout == "one arrow file":
        _stream(root / "mine.arrow", table())
        return root / "mine.arrow"
    if layout == "as on the hub":
        (root / "data").mkdir()
        pq.write_table(table(slice(0, 4)), root / "data/test-00000-of-00002.parquet")
        pq.write_table(table(slice(4, 6)), root / "data/test-00001-of-00002.parquet")
        pq.write_table(table(slice(0, 1)), root / "data/train-00000-of-00001.parquet")
    elif layout == "a folder per split":
        for split, rows in (("test", slice(None)), ("train", slice(0, 1))):
            (root / split).mkdir()
            pq.write_table(table(rows), root / split / "0000.parquet")
    elif layout == "save_to_disk":
        return saved(root / "saved")
    else:
        saved(root / "test")
        (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return root


LAYOUTS = ["one parquet file", "one arrow file", "as on the hub", "a folder per split", "save_to_disk", "a dictionary"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_local_tables_are_read_without_the_package(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    data = _load(_write(layout, tmp_path))
    assert np.array_equal((data.images * 255).round().numpy().transpose(0, 2, 3, 1), PIXELS)
    assert data.labels.tolist() == LABELS and data.classes == NAMES and data.num_classes == 3


def test_the_package_itself_wrote_what_we_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = pytest.importorskip("datasets", reason="the extra [hf] is not installed")
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=NAMES)})
    rows = {"img": [Image.fromarray(pixels) for pixels in PIXELS], "label": LABELS}
    theirs = hf.Dataset.from_dict(rows, features=features)
    theirs.save_to_disk(tmp_path / "one")
    hf.DatasetDict({"test": theirs.select([5, 1]).flatten_indices()}).save_to_disk(tmp_path / "several")
    (tmp_path / "hub").mkdir()
    theirs.to_parquet(tmp_path / "hub/test-00000-of-00001.parquet")
    for path, order in (("one", range(6)), ("several", [5, 1]), ("hub", range(6))):
        data = _load(tmp_path / path)
        assert np.array_equal((data.images * 255).round().numpy().transpose(0, 2, 3, 1), PIXELS[list(order)])
        assert data.labels.tolist() == [LABELS[row] for row in order] and data.classes == NAMES
    load = hf.load_dataset
    asked = []

    def from_disk(name: str, **options: Any) -> Any:
        asked.append((name, options.pop("revision"), options["download_config"].local_files_only))
        return load(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(hf, "load_dataset", from_disk)
    data = _load(None, repository="owner/name@v1.0", indices=[4, 2])
    assert np.array_equal((data.images * 255).round().numpy().transpose(0, 2, 3, 1), PIXELS[[4, 2]])
    assert data.classes == NAMES and data.whole.size == 6 and asked == [("owner/name", "v1.0", False)]


def test_only_chosen_images_are_read_and_transformed_as_by_torchvision(tmp_path: Path) -> None:
    content = table().to_pydict()
    content["img"][3]["bytes"] = b"damaged"
    pq.write_table(pa.table(content, schema=table().schema), tmp_path / "mine.parquet")
    data = _load(tmp_path / "mine.parquet", indices=[4, 0], resize=8, crop=6, interpolation="bicubic")
    steps = [
        transforms.Resize(8, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(6),
        transforms.ToTensor(),
    ]
    theirs = torch.stack([transforms.Compose(steps)(Image.fromarray(PIXELS[row])) for row in (4, 0)])
    assert torch.equal(data.images, theirs) and data.labels.tolist() == [2, 2] and data.whole.size == 6
    with pytest.raises(UserError, match="image 3 of column 'img' is not a readable image"):
        _load(tmp_path / "mine.parquet")


def test_columns_are_named_where_several_fit(tmp_path: Path) -> None:
    content = table(fine=[5, 4, 3, 2, 1, 0]).append_column("other", table(image="x").column("x"))
    pq.write_table(content, tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"several columns of images: img, other. Set `image:` to one of its columns"):
        _load(tmp_path / "mine.parquet")
    assert _load(tmp_path / "mine.parquet", image="other").labels.tolist() == LABELS
    data = _load(tmp_path / "mine.parquet", image="img", label="fine", num_classes=9)
    assert data.labels.tolist() == [5, 4, 3, 2, 1, 0] and data.num_classes == 9
    plain = content.replace_schema_metadata(None)
    pq.write_table(plain, tmp_path / "plain.parquet")
    with pytest.raises(UserError, match="several columns of labels: label, fine"):
        _load(tmp_path / "plain.parquet", image="img")
    assert _load(tmp_path / "plain.parquet", image="img", label="label").num_classes is None
    with pytest.raises(UserError, match=r"dataset 'hf' has no column 'imgs'. Did you mean 'img'?"):
        _load(tmp_path / "mine.parquet", image="imgs")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1] * 6, "has the label -1. The labels of this split are not published"),
        ([0.5] * 6, "are double, 0 of 6 empty"),
    ],
)
def test_labels_that_are_none_are_told(labels: list[float], message: str, tmp_path: Path) -> None:
    pq.write_table(table(own=labels), tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=message):
        _load(tmp_path / "mine.parquet", label="own")


def test_an_image_that_is_only_named_is_told(tmp_path: Path) -> None:
    content = table().to_pydict()
    content["img"] = [{"bytes": None, "path": f"{row}.png"} for row in range(6)]
    pq.write_table(pa.table(content, schema=table().schema), tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"image 0 of column 'img' is only named, by the path 0.png"):
        _load(tmp_path / "mine.parquet")


def test_a_split_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    for layout, message in (
        ("as on the hub", "has no split 'validation': its Parquet files are of test, train"),
        ("a dictionary", "has no split 'validation', but train, test"),
        ("save_to_disk", "it is the split 'test', and 'validation' is asked for"),
    ):
        root = tmp_path / layout
        root.mkdir()
        with pytest.raises(UserError, match=message):
            _load(_write(layout, root), split="validation")


@pytest.mark.parametrize("name", ["mine.parquet", "mine.arrow", "state.json", "dataset_dict.json"])
def test_damaged_files_are_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cut short")
    path = tmp_path / name if name.startswith("mine") else tmp_path
    with pytest.raises(UserError, match="it cannot be read"):
        _load(path)


def test_without_the_package_the_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"owner/name is read by the package 'datasets'.*pip install '.*\[hf\]'"):
        _load(None, repository="owner/name")


def test_without_a_network_the_repository_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        @staticmethod
        def DownloadConfig(local_files_only: bool) -> bool:
            return local_files_only

        @staticmethod
        def load_dataset(name: str, *, download_config: bool, **options: Any) -> None:
            raise ConnectionError(f"no route to the host of {name}, local files only: {download_config}")

    monkeypatch.setitem(sys.modules, "datasets", Package)
    with pytest.raises(
        UserError, match="the test split of the repository owner/name cannot be loaded: ConnectionError"
    ):
        _load(None, repository="owner/name")
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(UserError, match=r"cannot be loaded, and downloads are off: .*local files only: True"):
        _load(None, repository="owner/name")


def test_a_repository_given_as_a_path_is_told_where_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"there is no file or folder .*ylecun/mnist. .* write `repository: owner/name`"
    ):
        _load(tmp_path / "ylecun/mnist")
    for keys in ({}, {"repository": "owner/name"}):
        with pytest.raises(UserError, match="needs either a repository of the hub or a path"):
            _load(tmp_path if keys else None, **keys)
