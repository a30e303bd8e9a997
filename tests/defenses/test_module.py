"""A network that a suite names by the code that makes it: the right one and its weights, or an error that says why."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from defenses.module import Module
from defenses.networks.wrn_dropout import WRNDropout
from harness import cli
from harness.config.registry import Foreign, built_in_only
from harness.errors import Failed, UserError
from harness.suite import load_suite
from harness.suite.cell_key import Identities
from harness.weights.normalization import NormalizedNetwork

NET = """
from torch import nn

from blocks import Scale
from harness.defense import Defense


def make_net(classes=10, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes), Scale())


def fails():
    raise RuntimeError("no such file")


def gives_a_list(length):
    return [length]


class Mine(Defense):
    def classify(self, x):
        return x.flatten(1)[:, :10]


ready = make_net()
number = 3
"""

BLOCKS = """
from torch import nn


class Scale(nn.Module):
    factor = 2.0

    def forward(self, x):
        return self.factor * x
"""

SUITE = """
suite: own
dataset: {name: digits, first: 4}
protocol: {shard: 4}
defenses:
  mine: ENTRY
attacks:
  weak: {type: noise, norm: Linf, eps: 0.01}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's net.py, the blocks.py beside it, and weights of the network."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in by_hand().state_dict().items()}}, at(tmp_path))
    return tmp_path


def at(folder: Path) -> Path:
    return folder / "net.pt"


def by_hand() -> nn.Sequential:
    """What make_net makes, without the factor 2, with known weights."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
    for parameter in network.parameters():
        parameter.data = torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter)
    return network


def write_suite(folder: Path, entry: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(SUITE.replace("ENTRY", entry))
    return path


def defense_of(folder: Path, entry: str) -> Any:
    return load_suite(write_suite(folder, entry)).cells[0].defense


def refusal(folder: Path, entry: str) -> str:
    """What is said when the suite is read and its defense built."""
    with pytest.raises(UserError) as caught:
        defense_of(folder, entry).build()
    return str(caught.value)


def test_a_users_function_with_a_checkpoint_is_the_network_behind_the_normalisation(folder: Path) -> None:
    entry = '{type: module, module: "./net.py:make_net", weights: ./net.pt, mean: [0.5], std: [0.25]}'
    x = torch.rand(3, 1, 8, 8)
    expected = 2 * by_hand()((x - 0.5) / 0.25)
    defense = defense_of(folder, entry).build()
    assert torch.allclose(defense(x), expected, atol=1e-5)
    assert not defense.network.training and not any(parameter.requires_grad for parameter in defense.parameters())


def test_weights_may_be_safetensors(folder: Path) -> None:
    save_file({k: v.contiguous() for k, v in by_hand().state_dict().items()}, folder / "net.safetensors")
    entries = [f'{{type: module, module: "./net.py:make_net", weights: ./net.{end}}}' for end in ("pt", "safetensors")]
    x = torch.rand(2, 1, 8, 8)
    one, other = (defense_of(folder, entry).build()(x) for entry in entries)
    assert torch.equal(one, other)


def test_arguments_are_those_of_the_call(folder: Path) -> None:
    entry = '{type: module, module: "./net.py:make_net", arguments: {classes: 7, width: 2}}'
    assert defense_of(folder, entry).build()(torch.rand(2, 1, 8, 8)).shape == (2, 7)


def test_a_network_that_a_file_holds_is_copied_before_weights_are_loaded(folder: Path) -> None:
    plain = defense_of(folder, '{type: module, module: "./net.py:ready"}').build()
    x = torch.rand(2, 1, 8, 8)
    before = plain(x)
    loaded = defense_of(folder, '{type: module, module: "./net.py:ready", weights: ./net.pt}').build()
    assert torch.allclose(loaded(x), 2 * by_hand()(x), atol=1e-5)
    assert torch.equal(plain(x), before)
    again = defense_of(folder, '{type: module, module: "./net.py:ready"}').build()
    assert torch.equal(again(x), before)


def test_a_torchvision_network_takes_a_file_of_weights(folder: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    network = squeezenet1_1(weights=None, num_classes=5).eval()
    torch.save(network.state_dict(), folder / "squeeze.pth")
    entry = '{type: module, module: "torchvision.models:squeezenet1_1", weights: ./squeeze.pth, '
    defense = defense_of(folder, f"{entry}arguments: {{num_classes: 5}}, num_classes: 5}}").build()
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(defense(x), network(x), atol=1e-6)
    assert defense.num_classes == 5


def test_a_timm_network_is_named_as_timm_names_it(folder: Path) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_byobnet.r160_in1k", pretrained=False, num_classes=10).eval()
    torch.save({"model": network.state_dict()}, folder / "timm.pth")
    entry = '{type: module, module: "timm:test_byobnet.r160_in1k", weights: ./timm.pth, arguments: {num_classes: 10}}'
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(defense_of(folder, entry).build()(x), network(x), atol=1e-6)


def test_without_timm_the_remedy_is_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    told = refusal(folder, '{type: module, module: "timm:resnet18", weights: ./net.pt}')
    assert "needs timm" in told and "pip install 'adversarial-harness[timm]'" in told


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ('module: "./net.py:make_nte"', "has no function or class 'make_nte'. Did you mean 'make_net'?"),
        ('module: "./net.py"', "needs a function or class after a colon"),
        ('module: "./absent.py:make_net"', "absent.py cannot be read"),
        ("module: resnet18", "'resnet18' is neither package.module:name nor ./file.py:name"),
        ("module: 3", "it must be text such as package.module:name or ./file.py:name"),
        ('module: "torchvision.models:resnet81"', "has no function or class 'resnet81'. Did you mean 'resnet18'?"),
        ('module: "./net.py:number"', "is an int, neither a torch.nn.Module nor a function that returns one"),
        ('module: "./net.py:gives_a_list", arguments: {length: 2}', "returns a list, not a torch.nn.Module"),
        ('module: "./net.py:gives_a_list"', "needs 'length'. Add `arguments: {length: ...}`"),
        ('module: "./net.py:make_net", arguments: {widht: 2}', "has no argument 'widht'. Did you mean 'width'?"),
        ('module: "./net.py:ready", arguments: {width: 2}', "is a network already, and takes no arguments"),
        ('module: "./net.py:Mine"', "Write `type: ./net.py:Mine` in place of `type: module`"),
        ('module: "./net.py:make_net", weights: ./net.pt, arguments: {width: 5}', "does not fit Sequential"),
        ('module: "torchvision.models:resnet18"', "has random weights, since nothing is downloaded from torchvision"),
        ('module: "torchvision.models:resnet18", weights: ./net.pt, arguments: {weights: DEFAULT}', "would make"),
        ('module: "torchvision.models:resnet18", weights: ./net.pt, arguments: {pretrained: true}', "would make"),
        ('module: "./net.py:make_net", mean: [0.5], std: [0.0]', "std is [0.0]. Give positive numbers"),
    ],
)
def test_a_mistake_is_told_with_the_line_of_the_suite(folder: Path, entry: str, expected: str) -> None:
    told = refusal(folder, f"{{type: module, {entry}}}")
    assert expected in told
    assert "suite.yaml:6" in told


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ('module: "timm:resnet81", weights: ./net.pt', "timm has no model 'resnet81'. Did you mean"),
        ('module: "timm:hf-hub:timm/resnet18", weights: ./net.pt', "is neither package.module:name nor ./file.py:name"),
        ('module: "timm:resnet18", weights: ./net.pt, arguments: {checkpoint_path: ./net.pt}', "would make timm"),
    ],
)
def test_a_mistake_with_timm_is_told(folder: Path, entry: str, expected: str) -> None:
    pytest.importorskip("timm")
    assert expected in refusal(folder, f"{{type: module, {entry}}}")


def test_code_that_fails_is_told_with_the_users_line(folder: Path) -> None:
    with pytest.raises(Failed, match=r"RuntimeError: no such file \(.*net\.py:13, in fails\)"):
        defense_of(folder, '{type: module, module: "./net.py:fails"}').build()
    (folder / "net.py").write_text("import blocks\n\n\n1 / 0\n")
    assert "net.py:4: ZeroDivisionError" in refusal(folder, '{type: module, module: "./net.py:make_net"}')


def test_another_number_of_channels_is_refused_and_not_broadcast() -> None:
    defense = NormalizedNetwork(nn.Flatten(), mean=[0.1, 0.2, 0.3], std=[1.0])
    assert defense(torch.rand(2, 3, 2, 2)).shape == (2, 12)
    with pytest.raises(UserError, match="`mean` and `std` have 3 numbers, but images of shape"):
        defense(torch.rand(2, 1, 2, 2))

    with pytest.raises(UserError, match=r"mean is \[nan\]. Give finite numbers"):
        NormalizedNetwork(nn.Flatten(), mean=[float("nan")])


def test_an_attribute_called_preprocessing_that_is_no_pair_of_numbers_says_nothing() -> None:
    network = nn.Flatten()
    network.preprocessing = nn.Identity()
    x = torch.rand(2, 3, 2, 2)
    assert torch.equal(NormalizedNetwork(network)(x), x.flatten(1))


def test_the_users_sources_are_part_of_the_identity_and_their_place_is_not(folder: Path) -> None:
    entry = '{type: module, module: "./net.py:make_net", weights: ./net.pt}'
    identity = Identities().of(defense_of(folder, entry))
    assert set(identity.contents["code"]) == {"net.py", "blocks.py"}
    moved = folder / "moved"
    moved.mkdir()
    for name in ("net.py", "blocks.py", "net.pt"):
        (moved / name).write_bytes((folder / name).read_bytes())
    assert Identities().key(defense_of(folder, entry.replace("./", "./moved/"))) == identity.key
    (folder / "blocks.py").write_text(BLOCKS.replace("2.0", "3.0"))
    assert Identities().key(defense_of(folder, entry)) != identity.key


def test_installed_code_counts_by_the_version_of_its_package(folder: Path) -> None:
    entry = '{type: module, module: "torch.nn:Flatten"}'
    assert Identities().of(defense_of(folder, entry)).contents["code"] == {"torch": f"torch {version('torch')}"}


@pytest.mark.parametrize(
    "module", ["./net.py:make_net", "torch.nn:Flatten", "defenses.robustbench:fetch", "timm:vgg11"]
)
def test_code_that_a_stranger_names_is_not_imported(folder: Path, module: str) -> None:
    suite = write_suite(folder, f'{{type: module, module: "{module}", weights: ./net.pt}}')
    with built_in_only(), pytest.raises(Foreign, match="it names code"):
        load_suite(suite)


def test_a_run_is_verified_with_trust_and_left_without(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = '{type: module, module: "./net.py:make_net", weights: ./net.pt, num_classes: 10}'
    suite, out = write_suite(folder, entry), folder / "out"
    assert command("run", str(suite), "--out", str(out)) == 0
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["resolved"]["defenses"]["mine"]["arguments"]["module"] == "./net.py:make_net"
    assert command("verify", str(out), "--suite", str(suite), "--trust") == 0
    assert command("verify", str(out), "--suite", str(suite)) == 3
    assert "add --trust to run it" in " ".join(capsys.readouterr().out.split())
    (folder / "blocks.py").write_text(BLOCKS.replace("2.0", "3.0"))
    assert command("verify", str(out), "--suite", str(suite), "--trust") == 3
    assert "blocks.py (code of defense 'mine')" in " ".join(capsys.readouterr().out.split())


def test_another_number_of_classes_than_the_datasets_stops_a_run(folder: Path, capsys: Any) -> None:
    for entry in ("arguments: {classes: 7}", "num_classes: 7"):
        suite = write_suite(folder, f'{{type: module, module: "./net.py:make_net", {entry}}}')
        assert command("run", str(suite), "--out", str(folder / "out")) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "7" in told and "dataset 'digits' has 10" in told


def test_a_network_inside_another_defense_is_one_too(folder: Path) -> None:
    inner = '{type: module, module: "./net.py:make_net", weights: ./net.pt}'
    entry = f"{{type: likelihood_maximizer, weights: digits-ncsnpp, classifier: {inner}}}"
    component = defense_of(folder, entry)
    assert "net.py" in json.dumps(Identities().of(component).contents)
    with built_in_only(), pytest.raises(Foreign):
        load_suite(folder / "suite.yaml")


def test_a_stochastic_network_says_so() -> None:
    assert Module("torch.nn:Flatten", stochastic=True).stochastic
    assert not Module("torch.nn:Flatten").stochastic


@pytest.mark.slow
def test_the_entries_of_the_readme_are_built(tmp_path: Path) -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (entries,) = re.findall(r"```yaml\ndefenses:\n(  mine:   \{type: module.*?)```", readme, re.DOTALL)
    (tmp_path / "net.py").write_text(NET.replace("from blocks import Scale", "Scale = nn.Identity"))
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).state_dict(), at(tmp_path))
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "resnet.pth")
    torch.save(WRNDropout(depth=28, width=10, dropout=0.0).state_dict(), tmp_path / "wrn.pt")
    save_file(timm.create_model("resnet18", num_classes=10).state_dict(), tmp_path / "timm.safetensors")
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("  mine: ENTRY\n", entries))
    built = {cell.defense.name: cell.defense.build() for cell in load_suite(path).cells}
    assert list(built) == ["mine", "vision", "timm", "net"]
    assert all(defense(torch.rand(1, 3, 32, 32)).shape == (1, 10) for name, defense in built.items() if name != "mine")
    assert built["mine"](torch.rand(1, 1, 8, 8)).shape == (1, 10)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    return int(exit_.value.code or 0)
