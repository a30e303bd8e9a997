"""The code behind objects that live in Python: what changes an answer changes a hash, and nothing else does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torchvision.models import resnet18

from attacks.pgd import PGD
from harness.config.live_code import sources_of_object
from harness.quantity import Quantity
from harness.suite.built_state import digest_of

CELL = '''
from torch import nn

FACTOR = 2.0
unrelated = 1

def helper(x):
    return FACTOR * x

class Net(nn.Module):
    power = 1

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        """A text."""
        return helper(self.layer(x)) ** self.power
'''
"""What was typed into a notebook: no file holds it."""


def typed(code: str) -> Any:
    """The network that a cell of a notebook defines."""
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(compile(code, "<cell>", "exec", dont_inherit=True), names)
    return names["Net"]()


def sources(built: Any) -> dict[str, str]:
    return sources_of_object(built, digest_of)


def test_what_was_typed_counts_by_the_functions_that_the_object_calls() -> None:
    assert sources(typed(CELL)).keys() == {
        *("notebook.Net", "notebook.Net.__init__", "notebook.Net.forward", "notebook.helper")
    }
    assert sources(typed(CELL)) == sources(typed(CELL))


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("FACTOR * x", "FACTOR + x", {"notebook.helper"}),
        ("FACTOR = 2.0", "FACTOR = 3.0", {"notebook.helper"}),
        ("power = 1", "power = 2", {"notebook.Net"}),
        ("** self.power", "* self.power", {"notebook.Net.forward"}),
        ("unrelated = 1", "unrelated = 2  # and a remark\n\n", set()),
    ],
)
def test_what_changes_an_answer_changes_its_part(old: str, new: str, changed: set[str]) -> None:
    before, after = sources(typed(CELL)), sources(typed(CELL.replace(old, new)))
    assert {name for name in after if after[name] != before.get(name)} == changed


def test_a_module_counts_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "live_parts.py").write_text("def scale(x):\n    return 2 * x\n")
    (tmp_path / "live_net.py").write_text(
        "from torch import nn\nfrom live_parts import scale\n\n\nclass Net(nn.Module):\n"
        "    def forward(self, x):\n        return scale(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("live_net").Net()
    before = sources(network)
    assert len(before) == 2
    (tmp_path / "live_parts.py").write_text("def scale(x):\n    return 3 * x\n")
    after = sources(network)
    assert [Path(name).stem for name in after if after[name] != before[name]] == ["live_parts"]


def test_an_installed_package_counts_by_its_version_and_ours_does_not() -> None:
    ((name, version),) = sources(resnet18()).items()
    assert name == "torchvision" and version.startswith("torchvision 0.")
    assert sources(PGD("Linf", Quantity(0.1))) == {}


def test_hooks_count() -> None:
    network = nn.Linear(2, 2)
    assert sources(network) == {}
    network.register_forward_hook(typed(CELL).forward)
    assert "notebook.helper" in sources(network)
