"""The scripts in examples/, and the Python of the README, do what they say."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FINISHED = ROOT / "tests" / "golden" / "results_before_layout" / "run"


def output_of(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_executed_here() -> None:
    here = Path(__file__).read_text()
    assert len(files := [path.name for path in (ROOT / "examples").glob("*.py")]) == 3
    assert all(f'"{name}"' in here for name in files)


def test_a_model_of_one_s_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = output_of("evaluate_my_model.py", capsys, monkeypatch)
    (robust,) = re.findall(r"robust accuracy ([\d.]+)%", shown)
    (misclassified,) = re.findall(r"(\d+) of 64 images misclassified", shown)
    assert "Linf 0.2" in shown and float(robust) < 20 and int(misclassified) == round(64 * (1 - float(robust) / 100))


def test_a_purifier_looks_robust_to_a_naive_attack_and_falls_to_an_adaptive_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = output_of("write_a_purifier.py", capsys, monkeypatch)
    (row,) = (line for line in shown.splitlines() if line.startswith("rounding"))
    clean, naive, adaptive, worst = (float(number) for number in re.findall(r"\d+\.\d", row))
    assert clean > 95 and naive > 90 and adaptive == worst < 10
    assert "the gradient was zero throughout" in shown


def test_results_read_with_pandas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = output_of("read_results_with_pandas.py", capsys, monkeypatch, str(FINISHED))
    assert re.search(r"at_linf\s+linf\s+Linf 0.2\s+0.65625", shown)
    assert "images that withstand all attacks" in shown


def readme(title: str) -> str:
    """The Python below a heading of the README."""
    (found,) = re.findall(rf"<!-- {title} -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(found)


@pytest.mark.long
def test_the_resnet_of_the_readme_is_evaluated_on_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In at most 15 lines. The weights, and the images of two classes, are made up."""
    code = readme("my-resnet")
    assert len([line for line in code.splitlines() if line]) <= 15
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=2).state_dict(), "resnet.pt")
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(folder / "1.png")
    assert "size=64, " in code and "Resize(224)" in code
    small = code.replace("size=64, ", "").replace("224", "72")
    exec(compile(small, "<README>", "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out
    assert "on 2 images given in Python" in shown and "Linf 4/255" in shown
    manifest = json.loads((tmp_path / "results/resnet/run.json").read_text())
    assert manifest["dataset"]["count"] == 2 and manifest["dataset"]["kept"] is True


SESSION = """
import torch
from torch import nn
import harness

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)) * scale

scale = 1.0
torch.manual_seed(0)
net = Net()
call = {"attacks": {"type": "pgd", "steps": 2}, "data": "digits", "size": 2, "out": "run"}
first, second = harness.evaluate(net, **call), harness.evaluate(net, **call)
scale = 2.0
try:
    harness.evaluate(net, **call)
except harness.UserError as error:
    print(first.computed, second.computed, error, first._repr_html_()[:4])
"""


@pytest.mark.long
def test_a_session_without_files_resumes_and_notices_another_function(tmp_path: Path) -> None:
    """As in a notebook: the class was typed, and a global that it reads is changed between two calls."""
    done = subprocess.run(
        [sys.executable, "-"], input=SESSION, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("1 0 run/run.json: the suite changed since these results were made")
    assert "__main__.Net.forward (code of defense 'Net')" in done.stdout and done.stdout.rstrip().endswith("<h4>")
