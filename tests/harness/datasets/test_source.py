"""A dataset is one file with one class, ours or the user's: found by name, described before it is here, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness import cli, datasets
from harness.config import registry
from harness.datasets import by_name
from harness.errors import UserError
from harness.suite import load_suite

MINE = """
import torch
from harness.datasets import Dataset
from harness.datasets.source import Source
from drawing import stripes


class Stripes(Source):
    summary = "stripes, lying or standing"
    takes = ("path",)

    def load(self, request):
        images, labels = stripes(6)
        return Dataset("whatever", "whatever", images, labels, ["lying", "standing"], 2)


class Faulty(Stripes):
    def load(self, request):
        raise KeyError("no such image")


class Wide(Stripes):
    def load(self, request):
        images, labels = stripes(6)
        return CHANGED
"""

DRAWING = """
import torch


def stripes(count):
    images = torch.zeros(count, 1, 4, 4)
    images[::2, :, 1] = 1
    images[1::2, :, :, 1] = 1
    return images, torch.arange(count) % 2
"""

SUITE = """
suite: own
dataset: {name: "./mine.py:Stripes", first: 4}
protocol: {shard: 4}
defenses:
  flat: {type: module, module: "torch.nn:Flatten"}
attacks:
  clean: {type: clean}
"""

NET = """
from torch import nn


class TwoPixels(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, [6, 9]]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"mine.py": MINE, "drawing.py": DRAWING, "net.py": NET, "suite.yaml": SUITE}.items():
        (tmp_path / name).write_text(text.replace("torch.nn:Flatten", "./net.py:TwoPixels"))
    return tmp_path


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


def test_what_is_known_of_a_dataset_before_is_what_it_has() -> None:
    known, splits = by_name.find("digits").known, [datasets.load("digits", split) for split in ("train", "test")]
    assert known and [len(data) for data in splits] == [known.train, known.test]
    assert all((tuple(data.images.shape[1:]), data.num_classes) == (known.shape, known.classes) for data in splits)


def test_listed_summaries_are_those_of_the_classes() -> None:
    for entry in registry.entries("datasets"):
        assert entry.summary == registry.find("datasets", entry.name).summary


def test_a_users_file_is_a_dataset_of_a_suite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, out = folder / "suite.yaml", folder / "out"
    assert command("run", str(suite), "--out", str(out)) == 0
    manifest = json.loads((out / "run.json").read_text())
    assert (manifest["dataset"]["name"], manifest["dataset"]["count"]) == ("./mine.py:Stripes", 4)
    assert command("verify", str(out), "--suite", str(suite), "--trust") == 0
    assert command("report", str(out), "--format", "html") == 0  # which says that the images are not at hand
    (folder / "drawing.py").write_text(DRAWING.replace("images[::2, :, 1]", "images[::2, :, 2]"))
    assert command("verify", str(out), "--suite", str(suite), "--trust") == 1
    assert "the images of './mine.py:Stripes' are not those of the results" in _words(capsys)


def test_a_strangers_dataset_is_not_imported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, out = folder / "suite.yaml", folder / "out"
    assert command("run", str(suite), "--out", str(out)) == 0
    (folder / "mine.py").write_text('open("executed", "w").close()\n' + MINE)
    assert command("verify", str(out), "--suite", str(suite)) == 3
    assert command("report", str(out), "--format", "html") == 0
    assert command("compare", str(out), str(out)) == 0
    assert not Path("executed").exists()
    assert "it names code (./mine.py:Stripes); add --trust to run it" in _words(capsys)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./mine.py:Stirpes", "has no class 'Stirpes'. Did you mean 'Stripes'?"),
        ("./absent.py:Stripes", "absent.py cannot be read"),
        ("torch.nn:Flatten", "is not a subclass of harness.datasets.source.Source, so it is no dataset"),
        ("digit", "there is no dataset 'digit'. Did you mean 'digits'?"),
    ],
)
def test_a_name_that_is_none_is_told_with_its_line(folder: Path, name: str, expected: str) -> None:
    (folder / "suite.yaml").write_text(SUITE.replace("./mine.py:Stripes", name))
    with pytest.raises(UserError) as caught:
        load_suite(folder / "suite.yaml")
    assert expected in str(caught.value) and "suite.yaml:3" in str(caught.value)


def test_code_that_fails_is_told_with_its_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"'./mine.py:Faulty' cannot be loaded: KeyError: .*mine\.py:19, in load"):
        datasets.load("./mine.py:Faulty", base=folder)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("images, labels", "its source gives a tuple. Return a harness.datasets.Dataset"),
        ('Dataset("", "", images * 255, labels, [], 2)', r"its images range from 0 to 255. Give values in \[0, 1\]"),
        ('Dataset("", "", images.double(), labels, [], 2)', r"its images are torch.float64 \(6, 1, 4, 4\)"),
        ('Dataset("", "", images, labels[1:], [], 2)', r"its labels are torch.int64 \(5,\)"),
        ('Dataset("", "", images, labels + 1, [], 2)', "its labels range from 1 to 2, and it has 2 classes"),
        ('Dataset("", "", images / 0, labels, [], 2)', "its images range from nan to nan"),
    ],
)
def test_images_that_no_attack_could_start_from_are_refused(folder: Path, returned: str, expected: str) -> None:
    (folder / "mine.py").write_text(MINE.replace("CHANGED", returned))
    with pytest.raises(UserError, match=f"dataset './mine.py:Wide': {expected}"):
        datasets.load("./mine.py:Wide", base=folder)


def test_without_a_suite_no_code_of_a_users_is_a_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="is code that does not come with this package"):
        datasets.load("./mine.py:Stripes")
    assert not by_name.fixed("./mine.py:Stripes") and by_name.absent_dataset("./mine.py:Stripes") is None
    assert by_name.fixed("digits") and not by_name.fixed("folder")


def test_the_users_images_are_the_ones_that_it_gives(folder: Path) -> None:
    data = datasets.load("./mine.py:Stripes", "train", base=folder)
    assert (data.name, data.split, len(data)) == ("./mine.py:Stripes", "train", 6)
    assert torch.equal(data.images[0, 0].nonzero()[:, 0].unique(), torch.tensor([1]))


def _words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())
