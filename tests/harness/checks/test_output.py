"""What is no row of logits per image is refused in words that say what it is, and what to return instead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import cli
from harness.checks import check_defense, misshapen
from harness.defense import Defense

X = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def ten(count: int) -> tuple[str, str] | None:
    """As a dataset of ten classes says it."""
    return None if count == 10 else ("the dataset has 10", "Take another")


class ModelOutput(OrderedDict[str, Tensor]):
    """As Hugging Face models return."""


class Returning(Defense):
    def __init__(self, made: Callable[[Tensor], Any], num_classes: int | None = None) -> None:
        super().__init__()
        self.made, self.num_classes = made, num_classes

    def classify(self, x: Tensor) -> Tensor:
        answer: Tensor = self.made(x.flatten(1)[:, :10])
        return answer


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str, str]] = {
    "dict": (lambda z: {"loss": 0, "logits": z}, "returns a dict with keys 'loss', 'logits'", "output['logits']"),
    "model output": (lambda z: ModelOutput(logits=z), "returns a ModelOutput with keys 'logits'", "output['logits']"),
    "tuple": (lambda z: (z, z), "returns a tuple of 2 (Tensor, Tensor)", "output[0]"),
    "list": (lambda z: [z], "returns a list of 1 (Tensor)", "output[0]"),
    "nothing": (lambda z: None, "returns nothing (None)", "return logits"),
    "array": (lambda z: z.numpy(), "returns a ndarray", "torch.Tensor"),
    "number": (lambda z: 3.0, "returns a float", "torch.Tensor"),
    "single logit": (lambda z: z[:, :1], "returns 1 logit per image; two classes need two", "torch.zeros_like(z), z"),
    "flat logit": (lambda z: z[:, 0], "returns 1 logit per image; two classes need two", "torch.zeros_like(z), z"),
    "classes": (lambda z: z.argmax(1), "returns (2,) for 2 images, one class index for each", "logits"),
    "one row": (lambda z: z[0], "returns (10,) for 2 images, not (2, K)", "One row of logits"),
    "map": (lambda z: z[:, :, None, None], "returns (2, 10, 1, 1) for 2 images, not (2, K)", "one row of logits"),
    "too few": (lambda z: z[:, :7], "returns 7 logits per image, the dataset has 10", "take another"),
    "too many": (lambda z: z.repeat(1, 9), "returns 90 logits per image, the dataset has 10", "take another"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_no_row_of_logits_per_image_is_told_with_its_remedy(name: str) -> None:
    made, what, remedy = OUTPUTS[name]
    told = misshapen(Returning(made), X, ten)
    assert told is not None
    assert what in told[0] and remedy.lower() in told[1].lower()
    (finding,) = [v for v in check_defense(Returning(made), X, disagreement=ten) if v.status == "failed"]
    assert finding.name == "logits' shape" and what in finding.message


def test_logits_of_the_datasets_classes_are_fine() -> None:
    assert misshapen(Returning(lambda z: z), X, ten) is None
    assert misshapen(Returning(lambda z: z, num_classes=10), X, ten) is None


def test_other_logits_than_declared_are_told() -> None:
    told = misshapen(Returning(lambda z: z, num_classes=12), X, lambda count: None)
    assert told is not None and told[0] == "it returns 10 logits per image, and declares num_classes = 12"


def test_a_defense_that_raises_is_left_to_others() -> None:
    assert misshapen(Returning(lambda z: z.no_such_thing), X, ten) is None


SUITE = """\
suite: odd
dataset: {name: digits, first: 4}
protocol: {gates: GATES}
defenses:
  plain: {type: undefended, weights: digits-cnn}
  odd: {type: "./odd.py:Odd"}
attacks:
  clean: {}
"""

ODD = """\
from harness.defense import Defense


class Odd(Defense):
    def classify(self, x):
        return {"logits": x.flatten(1)[:, :10]}
"""


@pytest.mark.parametrize("policy", ["mark", "off"])
def test_a_run_with_such_a_defense_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.py").write_text(ODD)
    Path("odd.yaml").write_text(SUITE.replace("GATES", policy))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", "odd.yaml", "--device", "cpu"])
    assert exit_.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "odd.yaml:6: defense 'odd': it returns a dict with keys 'logits'. Return the logits tensor" in told
    assert not list(Path("results").rglob("*.parquet")) and not list(Path("results").rglob("run.json"))


NARROW = """\
from harness.defense import Defense


class Odd(Defense):
    def classify(self, x):
        return x.flatten(1)[:, :COUNT]
"""


@pytest.mark.parametrize("count", [7, 12])
def test_logits_of_other_classes_than_the_datasets_refuse_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.py").write_text(NARROW.replace("COUNT", str(count)))
    Path("odd.yaml").write_text(SUITE.replace("GATES", "mark"))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", "odd.yaml", "--device", "cpu"])
    assert exit_.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"odd.yaml:6: defense 'odd': it returns {count} logits per image, dataset 'digits' has 10. Choose" in told
