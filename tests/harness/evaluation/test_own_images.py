"""A user's own images, from the suite to the verified result: each has the label, and the values, that it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from harness import cli
from harness.errors import UserError
from harness.evaluation.pending import load_images
from harness.reporting.page.originals import originals
from harness.results.load import read_run
from harness.suite import load_suite
from harness.verification import verify

DEFENSE = """
from defenses.undefended import Undefended
from harness.defense import Defense


class Brightest(Defense):
    \"\"\"Right on every image: class k is a bright pixel k.\"\"\"

    def __init__(self, classes: int = 12):
        super().__init__()
        self.num_classes = classes

    def classify(self, x):
        return 10 * x.flatten(1)[:, :self.num_classes]


class Grey(Defense):
    num_classes = 10

    def __init__(self):
        super().__init__()
        self.net = Undefended(weights="digits-cnn")

    def classify(self, x):
        return self.net.classify(x.mean(1, keepdim=True))
"""

SUITE = """
suite: own
dataset: DATASET
defenses:
  mine: DEFENSE
attacks:
  clean: {type: clean}
"""

PGD = "  pgd: {type: pgd, norm: Linf, eps: 0.2, steps: 20}\n"


def write_suite(folder: Path, dataset: str, defense: str = '{type: "./defense.py:Brightest"}') -> Path:
    (folder / "defense.py").write_text(DEFENSE)
    path = folder / "suite.yaml"
    path.write_text(SUITE.replace("DATASET", dataset).replace("DEFENSE", defense))
    return path


def bright(folder: Path, names: dict[str, int], size: int = 4) -> None:
    """Three dark images in each folder, with one bright pixel where its label says."""
    random = np.random.RandomState(0)
    for name, label in names.items():
        (folder / name).mkdir(parents=True)
        for j in range(3):
            pixels = random.randint(0, 40, (size, size)).astype(np.uint8)
            pixels.flat[label] = 250
            Image.fromarray(pixels).save(folder / name / f"{j}.png")


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


def accuracies(suite: Path) -> dict[str, float]:
    """Of each attack, in a finished run; `Clean` as well."""
    out = suite.parent / "out"
    assert command("run", str(suite), "--out", str(out)) == 0
    found = read_run(out).pairings
    clean = next(iter(found.values())).records
    right = {"Clean": float(np.mean([row.clean_votes[0] == row.label for row in clean.itertuples()]))}
    return right | {a: float((p.records["verdict"] == "robust").mean()) for (_, a), p in found.items()}


def manifest(suite: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((suite.parent / "out" / "run.json").read_text())
    return content


def test_twelve_numbered_folders_are_all_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright(tmp_path / "images", {str(k): k for k in range(12)})
    suite = write_suite(tmp_path, "{name: folder, path: images}")
    assert accuracies(suite)["Clean"] == 1
    assert "'2' has label 2 and '10' label 10" in " ".join(capsys.readouterr().out.split())
    dataset = manifest(suite)["dataset"]
    assert (dataset["labels"], dataset["num_classes"]) == ({str(k): k for k in range(12)}, 12)
    assert command("show", str(suite)) == 0
    shown = capsys.readouterr().out
    assert "12 class folders, of 12 classes, became labels in the order of their numbers: 0 = '0', 1 = '1'" in shown


CLASSES = {
    "list": "classes: [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11]",
    "file": "classes: names.txt",
    "mapping": "classes: {n2: 2, n10: 10, n7: 7}, num_classes: 12",
    "mapping alone": "classes: {n2: 2, n10: 10, n7: 7}",
}


@pytest.mark.slow
@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES.keys())
def test_a_part_of_the_classes_is_judged_by_the_whole_network(
    classes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bright(tmp_path / "images", {"n10": 10, "n2": 2, "n7": 7})
    (tmp_path / "names.txt").write_text("".join(f"n{k}\n" for k in range(12)))
    suite = write_suite(tmp_path, f"{{name: folder, path: images, {classes}}}")
    assert accuracies(suite)["Clean"] == 1
    assert manifest(suite)["dataset"]["labels"] == {"n2": 2, "n7": 7, "n10": 10}
    out = tmp_path / "out"
    assert {report.outcome for report in verify(out, torch.device("cpu"), suite=suite, trust=True)} == {"holds"}
    monkeypatch.chdir(tmp_path)
    kept = originals(read_run(out).manifest, out)
    assert (len(kept.images), kept.class_name(10)) == (9, "n10")


def test_a_part_of_a_thousand_classes_goes_with_a_thousand_logits(tmp_path: Path) -> None:
    names = [f"n{7 * k:08d}" for k in range(1000)]
    bright(tmp_path / "images", {names[k]: k for k in (3, 500, 999)}, size=32)
    (tmp_path / "imagenet.txt").write_text("\n".join(names))
    dataset = "{name: folder, path: images, classes: imagenet.txt}"
    suite = write_suite(tmp_path, dataset, '{type: "./defense.py:Brightest", classes: 1000}')
    assert accuracies(suite)["Clean"] == 1


def test_a_part_of_the_classes_without_a_word_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright(tmp_path / "images", {"n10": 10, "n2": 2, "n7": 7})
    suite = write_suite(tmp_path, "{name: folder, path: images}")
    assert command("run", str(suite), "--out", str(tmp_path / "out")) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "defense 'mine' has 12 classes, dataset 'folder' has 3" in told
    assert "give all of them with `classes:` under `dataset:`" in told


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("{name: digits, classes: [a, b]}", "suite.yaml:3: dataset 'digits' defines its own classes"),
        ("{name: folder, path: images, classes: [a, a]}", "suite.yaml:3: 'a' appears twice"),
        ("{name: folder, path: images, classes: []}", "suite.yaml:3: .*it must not be empty"),
        ("{name: folder, path: images, classes: {a: -1}}", "suite.yaml:3: .*greater than or equal to 0"),
        ("{name: folder, path: images, classes: nowhere.txt}", r"suite.yaml:3: there is no file .*nowhere\.txt"),
        (
            "{name: folder, path: images, classes: [a], num_classes: 0}",
            "suite.yaml:3: 'dataset.num_classes' of the file",
        ),
        ("{name: folder, path: images, classes: [a]}", "suite.yaml:3: 'classes' does not name the folder 'n10'"),
    ],
)
def test_classes_that_do_not_fit_are_told_with_their_line(dataset: str, told: str, tmp_path: Path) -> None:
    bright(tmp_path / "images", {"n10": 10, "n2": 2})
    suite = write_suite(tmp_path, dataset)
    with pytest.raises(UserError, match=told):
        load_images(load_suite(suite))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [8, 16])
def test_grey_images_of_any_depth_are_what_they_show(depth: int, tmp_path: Path) -> None:
    data, top = load_digits(), 2**depth - 1
    for i, row in enumerate(np.random.RandomState(0).permutation(len(data.target))[:60]):
        folder = tmp_path / "images" / str(data.target[row])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (data.images[row] / 16 * top).round().astype(np.uint8 if depth == 8 else np.uint16)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    suite = write_suite(tmp_path, "{name: folder, path: images}", '{type: "./defense.py:Grey"}')
    suite.write_text(suite.read_text() + PGD)
    assert load_images(load_suite(suite))[1].x.shape == (60, 1, 8, 8)
    assert accuracies(suite) == {"Clean": 1.0, "clean": 1.0, "pgd": 0.0}


def test_an_npz_file_whose_last_classes_are_missing_is_judged_by_the_whole_network(tmp_path: Path) -> None:
    images = np.full((3, 1, 4, 4), 0.1)
    images.reshape(3, 16)[[0, 1, 2], [0, 5, 7]] = 1
    np.savez(tmp_path / "own.npz", images=images, labels=np.array([0, 5, 7]))
    suite = write_suite(tmp_path, "{name: npz, path: own.npz}")
    assert accuracies(suite)["Clean"] == 1
    assert manifest(suite)["dataset"]["num_classes"] is None
    suite.write_text(suite.read_text().replace("own.npz", "own.npz, num_classes: 10"))
    with pytest.raises(UserError, match="has 12 classes, dataset 'npz' has 10"):
        data = load_images(plan := load_suite(suite))[0]
        defense = plan.cells[0].defense
        data.refuse_classes_of(defense.build(), defense.title, defense.place)
