"""Resizing and cropping of image files: the pixels are torchvision's, and what does not fit is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from harness import cli, datasets
from harness.datasets.by_name import load_section
from harness.datasets.spec import Dataset as Section
from harness.errors import UserError
from harness.results.manifest import find_manifest
from harness.results.store import Store
from harness.suite import load_suite

SIZES = [(50, 37), (37, 50), (41, 41), (120, 33), (33, 97)]


def _picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with fine and coarse structure."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    ramp = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(((noise + ramp) / 2).astype(np.uint8))


@pytest.fixture(params=["png", "jpg"])
def photos(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of real files of different sizes, a grey one and one with a palette among them."""
    for number, size in enumerate(SIZES):
        file = tmp_path / "photos" / f"class_{number % 2}" / f"{number}.{request.param}"
        file.parent.mkdir(parents=True, exist_ok=True)
        _picture(*size, seed=number).save(file)
    _picture(60, 45, seed=8).convert("L").save(tmp_path / "photos" / "class_0" / f"8.{request.param}")
    if request.param == "png":
        _picture(45, 60, seed=9).convert("P").save(tmp_path / "photos" / "class_1" / "9.png")
    return tmp_path / "photos"


def _section(path: Path, **keys: Any) -> Section:
    return Section.model_validate({"name": "folder", "path": path, **keys})


def _theirs(path: Path, steps: list[Any]) -> torch.Tensor:
    """The images of a folder by torchvision's loader and transforms, in the harness's order."""
    pipeline = transforms.Compose([*steps, transforms.ToTensor()])
    files = sorted(path.glob("*/*"))
    return torch.stack([pipeline(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("resize", "crop"), [(32, 28), (24, 24), (64, 40), ((20, 30), None), ((31, 29), (17, 24))])
def test_pixels_are_those_of_torchvision(photos: Path, interpolation: str, resize: Any, crop: Any) -> None:
    ours = load_section(_section(photos, resize=resize, crop=crop, interpolation=interpolation), None)
    steps: list[Any] = [transforms.Resize(resize, InterpolationMode(interpolation))]
    theirs = _theirs(photos, steps + ([transforms.CenterCrop(crop)] if crop else []))
    assert torch.equal(ours.images, theirs)


def test_bilinear_is_the_default_as_in_torchvision(photos: Path) -> None:
    ours = load_section(_section(photos, resize=32, crop=28), None)
    assert torch.equal(ours.images, _theirs(photos, [transforms.Resize(32), transforms.CenterCrop(28)]))


def test_a_crop_alone_takes_stored_pixels(photos: Path) -> None:
    ours = load_section(_section(photos, crop=[32, 31]), None)
    assert torch.equal(ours.images, _theirs(photos, [transforms.CenterCrop((32, 31))]))


@pytest.mark.parametrize("mode", ["16 bits", "float"])
def test_deep_images_are_resized_without_rounding_to_8_bits(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    (tmp_path / "a").mkdir()
    if mode == "float":
        Image.fromarray(values).save(tmp_path / "a" / "0.tiff")
    else:
        Image.fromarray((values * 65535).round().astype(np.uint16)).save(tmp_path / "a" / "0.png")
    ours = load_section(_section(tmp_path, resize=20, interpolation="bicubic"), None)
    theirs = transforms.Resize(20, InterpolationMode.BICUBIC)(Image.fromarray(values))
    assert ours.images.shape == (1, 1, 20, 25)
    assert np.abs(ours.images[0, 0].numpy() - np.clip(np.asarray(theirs), 0, 1)).max() < 2e-5
    assert not torch.equal(ours.images * 255, (ours.images * 255).round())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"crop": 40}, r"class_0/0.\w+ is 50x37, too small to crop 40x40 from it. Set `resize:` to at least the crop"),
        ({"resize": 30}, r"is \d+x\d+ and class_0/0.\w+ is 40x30. Give all images one size: set `resize:` and `crop:`"),
        ({}, r"Give all images one size"),
    ],
)
def test_images_that_do_not_fit_are_told(photos: Path, keys: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_section(_section(photos, **keys), None)


def test_a_narrow_image_cannot_grow_beyond_the_memory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (1, 5000)).save(tmp_path / "a" / "0.png")
    with pytest.raises(UserError, match=r"is 1x5000, and 4096x20480000 when resized, more than 16,777,216 pixels"):
        load_section(_section(tmp_path, resize=4096), None)


def test_the_number_of_channels_does_not_depend_on_which_images_are_chosen(photos: Path) -> None:
    section = _section(photos, resize=32, crop=28)
    whole = load_section(section, None)
    grey = next(row for row in range(len(whole)) if torch.equal(whole.images[row, 0], whole.images[row, 1]))
    alone = load_section(section, None, lambda count: [grey])
    assert alone.images.shape == (1, 3, 28, 28) and alone.labels.tolist() == [whole.labels[grey]]
    assert torch.equal(alone.images[0], whole.images[grey]) and alone.whole == whole.whole


def test_only_chosen_images_are_read(photos: Path) -> None:
    *_, last = sorted(photos.glob("*/*"))
    last.write_bytes(b"damaged")
    section = _section(photos, resize=32, crop=28)
    assert len(load_section(section, None, lambda count: [0, 1])) == 2
    with pytest.raises(UserError, match="is not a readable image"):
        load_section(section, None)
    with pytest.raises(UserError, match="index 99 is not in the test split"):
        load_section(section, None, lambda count: [0, 99])


def test_datasets_of_one_size_refuse_transforms(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset 'digits' has no use for `resize:`\. Remove `resize:`"):
        load_section(Section(name="digits", resize=16), None)
    with pytest.raises(UserError, match="dataset 'digits' has no use for `path:`"):
        datasets.load("digits", path=tmp_path)


SUITE = """
suite: own
dataset: {name: folder, path: photos, first: 4, resize: 12, crop: 8, interpolation: bicubic}
defenses:
  flat: {type: module, module: "./net.py:net"}
attacks: {linf: {type: pgd, norm: Linf, eps: 0.1, steps: 2}}
"""
NET = """
import torch


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
"""


def test_a_transform_is_part_of_a_results_identity_and_verify_applies_it(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos.parent
    monkeypatch.chdir(folder)
    (folder / "net.py").write_text(NET)
    suite = folder / "suite.yaml"

    def command(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        return int(str(ended.value.code or 0))

    suite.write_text(SUITE)
    assert command("run", "suite.yaml", "--device", "cpu") == 0
    manifest = find_manifest(Store(folder / "results/own"))
    assert manifest is not None
    dataset = manifest.resolved.dataset
    assert (dataset["resize"], dataset["crop"], dataset["interpolation"]) == (12, 8, "bicubic")
    assert command("verify", "results/own", "--suite", "suite.yaml", "--trust") == 0
    assert json.loads((folder / "results/own/run.json").read_text())["dataset"]["count"] == 4
    suite.write_text(SUITE.replace("bicubic", "bilinear"))
    capsys.readouterr()
    assert command("run", "suite.yaml", "--device", "cpu") == 2
    assert "interpolation" in capsys.readouterr().err


def test_an_interpolation_without_a_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE.replace("resize: 12, ", ""))
    with pytest.raises(UserError, match=r"suite.yaml:3: the dataset's 'interpolation' has no effect without 'resize'"):
        load_suite(tmp_path / "suite.yaml")
