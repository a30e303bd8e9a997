"""A key changes with whatever decides a result, and with nothing else; a refusal says what changed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from attacks.clean import Clean
from harness.errors import UserError
from harness.evaluation.run import run
from harness.suite import load_suite
from harness.suite.cell_key import Identities, component_hash
from harness.verification import CellReport, verify

CPU = torch.device("cpu")

SUITE = """
suite: own
dataset: {name: npz, path: own.npz}
protocol: {shard: 4}
defenses:
  mine: {type: "./mine.py:Mine"}
attacks:
  push: {type: "./push.py:Push", pattern: pattern.npy}
"""

MINE = """
import json
from pathlib import Path

import torch

from harness.defense import Defense
from helper import scale
from models.net import Net


class Mine(Defense):
    def __init__(self, table: str = "table.json", data: Path | None = None) -> None:
        super().__init__()
        here = Path(__file__).parent
        self.net = Net()
        self.register_buffer("shift", torch.load(here / ("shift" + ".pt"), weights_only=True), persistent=False)
        self.factors = {"first": json.loads((here / "factors.txt").read_text())}
        self.drawn = torch.randn(3) * 0

    def classify(self, x):
        import late

        return scale * self.net(x.flatten(1)) + self.shift + self.factors["first"] + late.OFFSET
"""

PUSH = """
import numpy as np
import torch

from harness.attack import Attack, Cost
from harness.quantity import Quantity
from harness.threat import Linf


class Push(Attack):
    def __init__(self, pattern: str, eps: Quantity = Quantity(0.1)) -> None:
        super().__init__()
        self.threat, self.pattern = Linf(eps), pattern

    def perturb(self, target, x, y):
        return self.threat.project(x, x + torch.tensor(np.load(target_path(self.pattern)), dtype=x.dtype))

    def cost(self, num_classes):
        return Cost(0, 0)


def target_path(name):
    from pathlib import Path

    return Path(__file__).parent / name
"""


def write(folder: Path) -> Path:
    """A suite with a defense that stands on a helper, a package, a late import, two files and a drawn tensor."""
    (folder / "models").mkdir(parents=True)
    files = {
        "suite.yaml": SUITE,
        "mine.py": MINE,
        "push.py": PUSH,
        "helper.py": "from deeper import scale\n",
        "deeper.py": "scale = 1.0\n",
        "late.py": "OFFSET = 0.0\n",
        "models/__init__.py": "",
        "models/net.py": "from .blocks import Linear\n\n\nclass Net(Linear):\n    pass\n",
        "models/blocks.py": "import torch\n\n\nclass Linear(torch.nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(4, 3)\n",
        "factors.txt": "0.5",
        "unrelated.py": "x = 1\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    torch.save(torch.zeros(3), folder / "shift.pt")
    np.save(folder / "pattern.npy", np.full((1, 2, 2), 0.05))
    images(folder, 0)
    return folder / "suite.yaml"


def images(folder: Path, seed: int) -> None:
    drawn = np.random.default_rng(seed).random((4, 1, 2, 2), dtype=np.float32)
    np.savez(folder / "own.npz", images=drawn, labels=np.arange(4) % 3, classes=np.arange(3))


def finish(suite: Path) -> int:
    """The number of shards that were computed."""
    return run(load_suite(suite), suite.parent / "out", CPU).computed


def replaced(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def last(out: Path, suite: Path) -> CellReport:
    """The report of the only cell, when all of it was looked at."""
    return list(verify(out, CPU, suite=suite, trust=True))[-1]


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "own file": (replaced("mine.py", "* 0", "* 0.0"), "mine.py (code of defense 'mine')"),
    "helper of a helper": (replaced("deeper.py", "1.0", "2.0"), "deeper.py (code of defense 'mine')"),
    "import in a function": (replaced("late.py", "0.0", "1.0"), "late.py (code of defense 'mine')"),
    "relative import": (
        replaced("models/blocks.py", "import torch", "import torch  # now"),
        "models/blocks.py (code of defense",
    ),
    "loaded tensor": (
        lambda folder: torch.save(torch.ones(3), folder / "shift.pt"),
        "the weights and state of defense 'mine' as built (shift)",
    ),
    "loaded number": (
        lambda folder: (folder / "factors.txt").write_text("0.75"),
        "the weights and state of defense 'mine' as built (factors)",
    ),
    "file in an argument": (
        lambda folder: np.save(folder / "pattern.npy", np.zeros((1, 2, 2))),
        "the files that 'pattern' of attack of 'mine/push' names",
    ),
    "images": (lambda folder: images(folder, 1), "for mine/push: the images or labels of dataset 'npz'"),
    "argument": (
        replaced("suite.yaml", "pattern.npy}", "pattern.npy, eps: 0.2}"),
        "cells.mine/push.arguments.eps: 0.1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_decides_is_refused_and_named(name: str, tmp_path: Path) -> None:
    suite = write(tmp_path)
    assert (finish(suite), finish(suite)) == (1, 0)
    change, told = CHANGES[name]
    change(tmp_path)
    with pytest.raises(UserError, match=f"the suite changed since .*{re.escape(told)}"):
        finish(suite)


def test_only_what_changed_is_named(tmp_path: Path) -> None:
    suite = write(tmp_path)
    finish(suite)
    CHANGES["import in a function"][0](tmp_path)
    with pytest.raises(UserError) as caught:
        finish(suite)
    assert caught.value.message.endswith("for mine/push: late.py (code of defense 'mine')")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CHANGES if name not in ("images", "argument")])
def test_verification_names_the_same_change(name: str, tmp_path: Path) -> None:
    suite = write(tmp_path)
    finish(suite)
    change, told = CHANGES[name]
    report = last(tmp_path / "out", suite)
    assert report.outcome == "holds"
    change(tmp_path)
    report = last(tmp_path / "out", suite)
    assert report.outcome == "not replayed" and told.replace("attack of 'mine/push'", "attack 'push'") in str(
        report.unreplayed
    )


def test_a_change_of_what_does_not_decide_is_none(tmp_path: Path) -> None:
    suite = write(tmp_path / "here")
    finish(suite)
    (tmp_path / "here/unrelated.py").write_text("x = 2\n")
    (tmp_path / "here/late.py").touch()
    assert finish(suite) == 0
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert finish(tmp_path / "there/suite.yaml") == 0


@pytest.mark.long
def test_random_weights_without_a_seed_are_the_same_in_every_process(tmp_path: Path) -> None:
    suite = write(tmp_path)
    code = "from pathlib import Path\nfrom harness.suite import load_suite\n"
    code += "from harness.suite.cell_key import component_hash\n"
    code += f"print(component_hash(load_suite(Path({str(suite)!r})).cells[0].defense))"
    torch.manual_seed(torch.seed())
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == component_hash(load_suite(suite).cells[0].defense)


def test_a_defense_that_is_another_each_time_is_refused_by_the_attribute(tmp_path: Path) -> None:
    suite = write(tmp_path)
    replaced("mine.py", "self.drawn = torch.randn(3) * 0", "import time; self.born = time.time_ns()")(tmp_path)
    with pytest.raises(UserError, match="defense 'mine' differs each time it is built: born"):
        finish(suite)
    replaced("mine.py", "class Mine(Defense):", 'class Mine(Defense):\n    memory_knobs = ("born",)\n')(tmp_path)
    assert (finish(suite), finish(suite)) == (1, 0)


def test_a_defense_that_could_not_be_built_may_be_mended(tmp_path: Path) -> None:
    suite, factors = write(tmp_path), tmp_path / "factors.txt"
    factors.rename(tmp_path / "aside")
    done = run(load_suite(suite), tmp_path / "out", CPU)
    assert done.computed == 1 and len(done.failures) == 1
    (tmp_path / "aside").rename(factors)
    done = run(load_suite(suite), tmp_path / "out", CPU)
    assert (done.computed, done.failures) == (1, [])
    factors.unlink()
    with pytest.raises(UserError, match="defense 'mine' cannot be built: FileNotFoundError"):
        finish(suite)


def test_code_on_the_python_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, library = write(tmp_path / "own"), tmp_path / "library"
    (library / "elsewhere_used").mkdir(parents=True)
    (library / "elsewhere_used/__init__.py").write_text("from elsewhere_used.inner import X\n")
    (library / "elsewhere_used/inner.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(library)
    (tmp_path / "own/helper.py").write_text("import elsewhere_used\n\nscale = elsewhere_used.X\n")
    finish(suite)
    (library / "elsewhere_used/inner.py").write_text("X = 2\n")
    with pytest.raises(UserError, match=r"elsewhere_used\.inner \(code of defense 'mine'\)"):
        finish(suite)


def test_a_class_that_is_named_by_its_package_counts_by_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, package = write(tmp_path / "own"), tmp_path / "library/packaged_used"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("mine.py", "helper.py", "deeper.py", "late.py"):
        text = (tmp_path / "own" / name).read_text()
        for module in ("helper", "deeper", "models.net", "late"):
            text = text.replace(f"from {module}", f"from packaged_used.{module}").replace(
                f"import {module}", f"from packaged_used import {module}"
            )
        (package / name).write_text(text)
    for name in ("models", "shift.pt", "factors.txt"):
        (tmp_path / "own" / name).rename(package / name)
    monkeypatch.syspath_prepend(tmp_path / "library")
    replaced("suite.yaml", "./mine.py:Mine", "packaged_used.mine:Mine")(tmp_path / "own")
    assert (finish(suite), finish(suite)) == (1, 0)
    replaced("late.py", "0.0", "1.0")(package)
    with pytest.raises(UserError, match=r"for mine/push: packaged_used\.late \(code of defense 'mine'\)"):
        finish(suite)


def test_a_class_of_an_installed_package_counts_by_the_version_of_that(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(8, 8).state_dict(), tmp_path / "w.pt")
    entry = "{type: undefended, weights: ./w.pt, network: {type: 'torch.nn:Linear', in_features: 8, out_features: 8}}"
    of_network(tmp_path, entry)
    contents = Identities().of(load_suite(tmp_path / "suite.yaml").cells[0].defense).contents
    assert contents["code"] == {"torch": f"torch {version('torch')}"}


def test_modules_that_are_imported_by_a_name_made_at_run_time_count(tmp_path: Path) -> None:
    suite = write(tmp_path)
    (tmp_path / "models/extra.py").write_text("Y = 1\n")
    before = component_hash(load_suite(suite).cells[0].defense)
    (tmp_path / "models/extra.py").write_text("Y = 2\n")
    assert component_hash(load_suite(suite).cells[0].defense) == before
    (tmp_path / "models/__init__.py").write_text(
        "from importlib import import_module\n\ndef get(name):\n    return import_module(f'.{name}', __name__)\n"
    )
    before = component_hash(load_suite(suite).cells[0].defense)
    (tmp_path / "models/extra.py").write_text("Y = 3\n")
    assert component_hash(load_suite(suite).cells[0].defense) != before


def test_a_file_that_the_source_names_counts_though_it_is_read_late(tmp_path: Path) -> None:
    suite = write(tmp_path)
    (tmp_path / "late.py").write_text("import json\n\nOFFSET = 0.0\nLATER = 'later.json'\n")
    (tmp_path / "later.json").write_text("1")
    finish(suite)
    (tmp_path / "later.json").write_text("2")
    with pytest.raises(UserError, match=r"later\.json \(named in the code of defense 'mine'\)"):
        finish(suite)


def test_a_folder_in_an_argument_counts_by_the_files_in_it(tmp_path: Path) -> None:
    suite = write(tmp_path)
    (tmp_path / "some/deep").mkdir(parents=True)
    (tmp_path / "some/deep/a.bin").write_bytes(b"1")
    replaced("suite.yaml", 'mine.py:Mine"', 'mine.py:Mine", data: ./some')(tmp_path)
    finish(suite)
    (tmp_path / "some/deep/a.bin").write_bytes(b"2")
    with pytest.raises(UserError, match="the files that 'data' of defense 'mine' names"):
        finish(suite)


def test_a_word_that_happens_to_be_a_file_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = write(tmp_path)
    replaced("suite.yaml", 'mine.py:Mine"', 'mine.py:Mine", table: word')(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = component_hash(load_suite(suite).cells[0].defense)
    (tmp_path / "word").write_text("1")
    assert component_hash(load_suite(suite).cells[0].defense) == before


NET = """
import torch
from strength import S


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        return S * self.linear(x.flatten(1))
"""


def of_network(folder: Path, entry: str) -> str:
    """The key of a built-in defense around a network of the user's."""
    text = f"suite: s\ndataset: {{name: digits, first: 2}}\ndefenses:\n  d: {entry}\nattacks: {{clean: {{}}}}\n"
    (folder / "suite.yaml").write_text(text)
    return component_hash(load_suite(folder / "suite.yaml").cells[0].defense)


def test_a_network_of_the_user_s_inside_a_built_in_defense_counts(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "strength.py").write_text("S = 1\n")
    torch.save(torch.nn.ModuleDict({"linear": torch.nn.Linear(64, 10)}).state_dict(), tmp_path / "w.pt")
    plain = '{type: undefended, weights: ./w.pt, network: {type: "./net.py:Net"}}'
    inside = "{type: diffpure, weights: digits-ncsnpp, t_star: 0.1, dt: 0.05, classifier: " + plain + "}"
    before = of_network(tmp_path, plain), of_network(tmp_path, inside)
    assert before == (of_network(tmp_path, plain), of_network(tmp_path, inside))
    (tmp_path / "strength.py").write_text("S = 2\n")
    assert before[0] != of_network(tmp_path, plain) and before[1] != of_network(tmp_path, inside)


def test_the_network_on_a_card_of_the_user_s_counts(tmp_path: Path) -> None:
    for suffix in ("safetensors", "yaml"):
        shutil.copy(str(resources.files("defenses") / f"zoo/digits-cnn.{suffix}"), tmp_path / f"own.{suffix}")
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "suite: s\ndataset: {name: digits, first: 2}\n"
        "defenses: {d: {type: undefended, weights: ./own.safetensors}}\nattacks: {clean: {}}\n"
    )
    assert (finish(suite), finish(suite)) == (1, 0)
    card = yaml.safe_load((tmp_path / "own.yaml").read_text())
    card["network"]["dropout"] = 0.5
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(UserError, match="the network on the card of 'weights' of defense 'd'"):
        finish(suite)


def test_the_keys_of_what_is_built_in_are_made_as_in_version_0_1(tmp_path: Path) -> None:
    """Golden for defenses; an attack's by hand, from its class, version and arguments and nothing else."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "suite: s\ndataset: {name: digits, first: 2}\n"
        "defenses: {undefended: {weights: digits-cnn}, at: {weights: digits-at-linf}}\nattacks: {clean: {}}\n"
    )
    cells = load_suite(suite).cells
    assert component_hash(cells[0].defense) == "9a419b030e35b47de948467539249d56"
    assert component_hash(cells[1].defense) == "fe1592627abcd44ed5e044c8af0da438"
    claim = {
        "code": {"class": "Clean", "version": Clean.version, "module": "attacks.clean"},
        "arguments": cells[0].attack.arguments,
    }
    assert component_hash(cells[0].attack) == sha256(json.dumps(claim, sort_keys=True).encode()).hexdigest()[:32]


def test_results_of_a_harness_that_recorded_no_contents(tmp_path: Path) -> None:
    """Those of built-in code are found finished; of the user's code nobody knows whether it changed."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "suite: s\ndataset: {name: digits, first: 2}\ndefenses: {undefended: {weights: digits-cnn}}\n"
        "attacks: {clean: {}}\n"
    )
    finish(suite)
    forget(tmp_path / "out")
    assert finish(suite) == 0
    suite = write(tmp_path / "own")
    finish(suite)
    forget(tmp_path / "own/out", key="0" * 32)
    with pytest.raises(
        UserError, match="the code, files and weights of defense 'mine' may have changed: they were not rec"
    ):
        finish(suite)


def forget(out: Path, key: str | None = None) -> None:
    content = json.loads((out / "run.json").read_text())
    del content["contents"], content["seal"]
    for cell in content["cells"]:
        cell["key"] = key or cell["key"]
    (out / "run.json").write_text(json.dumps(content))


ADDED = """
suite: added
dataset: {{name: digits, first: 4}}
defenses:
  undefended: {{weights: digits-cnn}}
attacks:
  pgd: {{norm: Linf, eps: 0.1, eot: 2{}}}
"""


def test_an_argument_that_came_later_counts_only_where_it_changes_something(tmp_path: Path) -> None:
    """So that results of before keep their keys; `tests/test_earlier_results.py` has some."""

    def key(more: str) -> str:
        (tmp_path / "added.yaml").write_text(ADDED.format(more))
        return component_hash(load_suite(tmp_path / "added.yaml").cells[0].attack)

    before = key("")
    same = [", select: all", ", surrogate_steps: null", ", low_frequency: null"]
    assert {key(each) for each in same} == {before}
    others = {key(each) for each in (", select: agreeing", ", surrogate_steps: 2", ", low_frequency: 2", ", steps: 41")}
    assert len(others | {before}) == 5
