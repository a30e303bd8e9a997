"""ImageNet's validation images: the official labels and order in every layout, and messages that find the files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import transforms
from torchvision.datasets.imagenet import parse_devkit_archive

from harness.datasets.by_name import absent_dataset, load_section, request_of
from harness.datasets.imagenet_files import classes
from harness.datasets.spec import Dataset as Section
from harness.errors import UserError

LABELS = {1: 65, 2: 970, 3: 230, 4: 809, 5: 516, 7: 0}
"""Labels of some images, by number; 6 is missing."""


def _image(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _write(folder: Path, by_class: bool) -> Path:
    for number, label in LABELS.items():
        place = folder / classes()[label] if by_class else folder
        place.mkdir(parents=True, exist_ok=True)
        image = _image(number)
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated, which the loaders of training ignore
        (image.convert("L") if number == 3 else image).save(place / f"ILSVRC2012_val_{number:08d}.JPEG", exif=exif)
    return folder


def _development_kit(folder: Path) -> None:
    """Files as in ILSVRC2012_devkit_t12: leaves in an order of their own, then inner nodes of WordNet."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(0).permutation(1000)
    rows = [(at + 1, classes()[label], f"words of {label}", 0) for at, label in enumerate(order)]
    rows.append((1001, "n00001740", "entity", 2))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.array([(number, name, words, "", children) for number, name, words, children in rows], dtype=kinds)
    savemat(folder / "meta.mat", {"synsets": synsets[:, None]})
    numbers = {int(label): at + 1 for at, label in enumerate(order)}
    truth = [numbers[LABELS.get(number, 1)] for number in range(1, 11)]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))


def _solution(file: Path) -> None:
    lines = [f"ILSVRC2012_val_{number:08d},{classes()[label]} 1 2 3 4 " for number, label in LABELS.items()]
    file.write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]))


def _section(path: Path, **keys: Any) -> Section:
    keys = {"indices": [2, 0, 4, 6], "resize": 32, "crop": 28} | keys
    return Section.model_validate({"name": "imagenet", "path": path, **keys})


def _load(section: Section) -> Any:
    return load_section(section, None, section.choose)


def test_the_classes_are_the_official_ones_in_their_order() -> None:
    assert len(classes()) == 1000 and classes() == sorted(set(classes()))
    spec = importlib.util.find_spec("robustbench")
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / "helper_files/imagenet_class_to_id_map.json"
    assert json.loads(file.read_text()) == {name: label for label, name in enumerate(classes())}


@pytest.mark.parametrize("given", ["", "val", "val/n01440764", "val/n01440764/ILSVRC2012_val_00000007.JPEG"])
def test_class_folders_are_found_wherever_the_path_points(given: str, tmp_path: Path) -> None:
    _write(tmp_path / "val", by_class=True)
    (tmp_path / "train/n01440764").mkdir(parents=True)
    _image(1).save(tmp_path / "train/n01440764/n01440764_10026.JPEG")
    data = _load(_section(tmp_path / given))
    assert data.labels.tolist() == [LABELS[number] for number in (3, 1, 5, 7)]
    assert (data.num_classes, data.whole.size, data.classes[65]) == (1000, 50_000, "n01751748")


LAYOUTS = ["class folders", "development kit inside", "development kit beside", "Kaggle"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_index_is_the_same_image_with_the_same_label_in_every_layout(layout: str, tmp_path: Path) -> None:
    if layout == "class folders":
        _write(tmp_path / "validation", by_class=True)
    elif layout == "Kaggle":
        _write(tmp_path / "ILSVRC/Data/CLS-LOC/val", by_class=False)
        _solution(tmp_path / "LOC_val_solution.csv")
    else:
        inside = tmp_path / "ILSVRC2012_img_val" if layout.endswith("beside") else tmp_path
        _write(inside, by_class=False)
        _development_kit(tmp_path / "ILSVRC2012_devkit_t12/data")
    data = _load(_section(tmp_path))
    assert data.labels.tolist() == [LABELS[number] for number in (3, 1, 5, 7)]
    pipeline = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(28), transforms.ToTensor()])
    files = {file.name: file for file in tmp_path.rglob("*.JPEG")}
    theirs = [pipeline(Image.open(files[f"ILSVRC2012_val_{n:08d}.JPEG"]).convert("RGB")) for n in (3, 1, 5, 7)]
    assert torch.equal(data.images, torch.stack(theirs))


def test_the_development_kit_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tarfile

    _development_kit(tmp_path / "ILSVRC2012_devkit_t12/data")
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    monkeypatch.setattr("torchvision.datasets.imagenet._verify_archive", lambda *given: None)
    parse_devkit_archive(str(tmp_path))
    _, identifiers = torch.load(tmp_path / "meta.bin")
    _write(tmp_path, by_class=False)
    data = _load(_section(tmp_path))
    assert [classes()[label] for label in data.labels] == [identifiers[number - 1] for number in (3, 1, 5, 7)]


def test_a_missing_image_is_told_with_one_that_is_there(tmp_path: Path) -> None:
    _write(tmp_path, by_class=True)
    with pytest.raises(UserError) as caught:
        _load(_section(tmp_path, indices=[0, 5]))
    assert "ILSVRC2012_val_00000006.JPEG is missing: 6 of 50,000 images are here" in caught.value.message
    assert "that of ILSVRC2012_val_00000001 is 0" in str(caught.value.remedy)


def test_images_without_labels_are_refused_with_both_ways_to_get_them(tmp_path: Path) -> None:
    _write(tmp_path / "val", by_class=False)
    with pytest.raises(UserError) as caught:
        _load(_section(tmp_path))
    for name in ("ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv", str(tmp_path / "val")):
        assert name in caught.value.message
    assert "ILSVRC2012_devkit_t12.tar.gz" in str(caught.value.remedy) and "val/n01440764" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("meta.mat", b"cut short"),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\nthree\n"),
        ("ILSVRC2012_validation_ground_truth.txt", b"5000\n" * 9),
    ],
)
def test_a_damaged_development_kit_is_told(file: str, content: bytes, tmp_path: Path) -> None:
    _write(tmp_path, by_class=False)
    _development_kit(tmp_path / "ILSVRC2012_devkit_t12/data")
    (tmp_path / "ILSVRC2012_devkit_t12/data" / file).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read: .* Unpack ILSVRC2012_devkit_t12.tar.gz again"):
        _load(_section(tmp_path))


def test_a_truth_that_is_too_short_is_told(tmp_path: Path) -> None:
    _write(tmp_path, by_class=False)
    _solution(tmp_path / "LOC_val_solution.csv")
    lines = (tmp_path / "LOC_val_solution.csv").read_text().splitlines()
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines[:3]))
    with pytest.raises(UserError, match=r"nothing says which class ILSVRC2012_val_00000003\.JPEG has"):
        _load(_section(tmp_path))


def test_a_class_that_is_none_is_told(tmp_path: Path) -> None:
    _write(tmp_path, by_class=True)
    (tmp_path / "n99999999").mkdir()
    with pytest.raises(UserError, match="the folder n99999999 is none of the 1,000 classes"):
        _load(_section(tmp_path))


def test_only_the_test_split_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset 'imagenet' has no split that is called 'train'. Valid names: test"):
        _load(_section(tmp_path, split="train"))


def test_costs_are_counted_with_the_suites_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    section = Section.model_validate({"name": "imagenet", "first": 8, "resize": 320, "crop": [299, 288]})
    known = absent_dataset("imagenet", request_of(section))
    assert known is not None and known.shape == (3, 299, 288) and known.test == 50_000
    assert absent_dataset("imagenet", request_of(_section(tmp_path))) is None
    with pytest.raises(UserError, match=r"is not in .*imagenet\. Register at https://www.image-net.org"):
        _load(section)
