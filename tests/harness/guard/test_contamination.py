"""Nothing that a defense or an attack changes reaches the rows after it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.evaluation.run import run
from harness.guard.contamination import Contamination, Guard, settings_kept
from harness.guard.fingerprint import checksum, fingerprint, quick_fingerprint
from harness.guard.process_settings import Settings
from harness.randomness import normal
from harness.results.load import read_run
from harness.suite import load_suite
from helpers.modules import source

CAST = source("contaminating")

SUITE = """\
suite: cast
dataset: {{name: digits, first: 6}}
protocol: {{shard: 3, gates: {gates}}}
defenses: {{{defenses}}}
attacks: {{{attacks}}}
"""

Found = dict[tuple[str, str], pd.DataFrame]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cast")
    (path / "cast.py").write_text(CAST)
    return path


def ran(folder: Path, defenses: list[str], attacks: list[str], gates: str = "off") -> Found:
    """Runs classes of `CAST` in the order in which they are named, and gives the records by pairing."""
    named = [", ".join(f'{name}: {{type: "./cast.py:{name}"}}' for name in part) for part in (defenses, attacks)]
    path, out = folder / "cast.yaml", folder / "-".join([*defenses, *attacks, gates])
    path.write_text(SUITE.format(defenses=named[0], attacks=named[1], gates=gates))
    before = Settings.now(), *_generators()
    run(load_suite(path), out, torch.device("cpu"))
    assert (Settings.now(), *_generators()) == before
    return {names: pairing.records for names, pairing in read_run(out).pairings.items()}


def _generators() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]


@pytest.fixture(scope="module")
def alone(folder: Path) -> pd.DataFrame:
    """What comes of the plain defense under the plain attack where nothing else is run."""
    return ran(folder, ["Plain"], ["Step"])["Plain", "Step"]


def the_same(found: pd.DataFrame, alone: pd.DataFrame) -> bool:
    columns = ["index", "label", "verdict", "clean_votes", "adv_votes", "clean_margins", "adv_margins", "linf", "error"]
    return bool(repr(found[columns].to_dict("list")) == repr(alone[columns].to_dict("list")))


def failed(found: pd.DataFrame, told: str) -> bool:
    """Every image is an error that says so, but for those that needed no attack, since they were misclassified."""
    attacked = found["verdict"] == "error"
    wrong = found["clean_votes"].map(len).eq(1) & (
        found["clean_votes"].map(lambda v: v[0] if len(v) else -1) != found["label"]
    )
    return bool((attacked | wrong).all() and attacked.any() and found["error"][attacked].str.contains(told).all())


DEFENSES = {
    "HiddenBatchNorm": r"answering changed the buffer hidden\[0\].num_batches_tracked, the buffer hidden",
    "Counts": "changed the buffer calls of the defense, on which other results depend",
    "SetsDtype": r"answering changes torch's default dtype \(from torch.float32 to torch.float64\)",
    "SetsThreadsWhenBuilt": "its constructor changes torch's number of threads",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_that_changes_what_others_rest_on_fails_and_no_other(
    name: str, folder: Path, alone: pd.DataFrame
) -> None:
    found = ran(folder, [name, "Plain"], ["Step"])
    assert failed(found[name, "Step"], DEFENSES[name])
    assert the_same(found["Plain", "Step"], alone)


@pytest.mark.parametrize("name", ["WritesIntoItsInput", "Seeds"])
def test_a_defense_that_changes_what_it_got_a_copy_of_harms_nobody(
    name: str, folder: Path, alone: pd.DataFrame
) -> None:
    found = ran(folder, [name, "Plain"], ["Step"])
    assert the_same(found["Plain", "Step"], alone)
    assert set(found[name, "Step"]["verdict"]) <= {"robust", "fooled"}
    if name == "Seeds":  # asked image by image, so that margins are rounded in another way
        assert found[name, "Step"]["adv_votes"].tolist() == alone["adv_votes"].tolist()


def test_a_row_whose_network_another_row_overwrites_is_what_it_is_alone(folder: Path) -> None:
    alone = ran(folder, ["First"], ["Step"])["First", "Step"]
    found = ran(folder, ["First", "Second"], ["Step"])
    assert the_same(found["First", "Step"], alone)
    told = "building defense 'Second' changed the parameter shared.weight of defense 'First'"
    assert failed(found["Second", "Step"], told)


def test_a_defense_that_cannot_be_made_as_it_was_is_used_no_more(folder: Path, alone: pd.DataFrame) -> None:
    found = ran(folder, ["Shares", "Plain"], ["ZeroesWeights", "Step"])
    told = "defense 'Shares' cannot be made again as it was before Shares/ZeroesWeights changed it"
    assert set(found["Shares", "Step"]["verdict"]) == {"error"}
    assert found["Shares", "Step"]["error"].str.contains(told).all()
    assert the_same(found["Plain", "Step"], alone)


ATTACKS = {
    "ZeroesWeights": "the attack, or the defense under it, changed the parameter net.weight of the defense",
    "Trains": "changed the training mode of net, the training mode of norm, the training mode of the whole of the",
    "Hooks": "changed the hooks of net of the defense",
    "Replaces": "changed the method purify of the defense",
    "Widens": "the attack changed its own budget from Linf 1/16 to Linf 1",
    "Mutates": "the attack changed its own budget from Linf 1/16 to Linf 1",
    "Dtype": "the attack, or the defense under it, changed torch's default dtype",
    "Grad": r"changed torch's grad mode \(from True to False\)",
    "Device": r"changed torch's default device \(from cpu to meta\)",
    "Threads": "changed torch's number of threads",
    "Deterministic": r"changed torch's deterministic mode \(from 0 to 2\)",
    "Moves": "changed the current folder",
    "Fails": "planted failure",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_changes_what_others_rest_on_fails_and_no_other(
    name: str, folder: Path, alone: pd.DataFrame
) -> None:
    found = ran(folder, ["Plain", "Copy"], [name, "Step"])
    for defense in ("Plain", "Copy"):
        assert failed(found[defense, name], ATTACKS[name])
        assert the_same(found[defense, "Step"], alone)


@pytest.mark.parametrize("name", ["OverwritesImages", "Reseeds"])
def test_an_attack_that_changes_what_it_got_a_copy_of_harms_nobody(
    name: str, folder: Path, alone: pd.DataFrame
) -> None:
    found = ran(folder, ["Plain"], [name, "Step"])
    assert the_same(found["Plain", "Step"], alone)
    assert "error" not in set(found["Plain", name]["verdict"])


def test_a_gate_marks_it_too(folder: Path, alone: pd.DataFrame) -> None:
    found = ran(folder, ["Counts", "Plain"], ["Step"], gates="mark")
    assert the_same(found["Plain", "Step"], alone)
    manifest = json.loads((folder / "Counts-Plain-Step-mark" / "run.json").read_text())
    assert "contamination: answering changed the buffer calls of the defense" in json.dumps(manifest)


def test_a_file_that_changes_settings_when_it_is_imported_is_refused_and_they_are_set_back(folder: Path) -> None:
    (folder / "sets.py").write_text(CAST + "\ntorch.set_default_dtype(torch.float64)\n")
    (folder / "sets.yaml").write_text(
        SUITE.format(defenses='a: {type: "./sets.py:Plain"}', attacks='b: {type: "./sets.py:Step"}', gates="off")
    )
    with pytest.raises(UserError, match="importing defense 'a' changes torch's default dtype") as refused:
        load_suite(folder / "sets.yaml")
    assert str(refused.value).startswith(f"{folder / 'sets.yaml'}:")
    assert torch.get_default_dtype() == torch.float32


def test_changed_images_of_the_run_itself_stop_it() -> None:
    x, y = torch.zeros(2, 1, 2, 2), torch.arange(2)
    guard = Guard(x, y)
    guard.refuse_other_images("defense 'a'")
    for spoil in (lambda: x.view(-1)[3].fill_(1e-9), lambda: y[0].fill_(1)):
        fresh = Guard(x, y)
        spoil()
        with pytest.raises(UserError, match="defense 'a' changed the images or labels of the run itself"):
            fresh.refuse_other_images("defense 'a'")


def test_a_checksum_tells_any_two_tensors_apart_and_not_where_they_lie_in_memory() -> None:
    for dtype in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int64,
        torch.bool,
        torch.complex64,
    ):
        tensor = normal(torch.arange(6), (4,)).sign().to(dtype)
        assert checksum(tensor) == checksum(tensor.t().contiguous().t()) == checksum(torch.cat([tensor, tensor])[6:])
        for place in range(24):
            other = tensor.clone()
            other.view(-1)[place] = 0 if dtype == torch.bool else 7
            assert checksum(other) != checksum(tensor)
        if dtype != torch.bool:
            assert checksum(tensor.flip(0)) != checksum(tensor)
    assert checksum(torch.tensor(0.0)) != checksum(torch.tensor(-0.0))


def test_a_fingerprint_does_not_change_by_use_or_by_moving() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    before = fingerprint(net)
    net(torch.rand(3, 1, 5, 5))
    assert fingerprint(net.to("cpu")) == before
    net.train()(torch.rand(3, 1, 5, 5))
    changed = {name for name, found in fingerprint(net).items() if before[name] != found}
    assert changed == {
        *("the buffer 1.num_batches_tracked", "the buffer 1.running_mean", "the buffer 1.running_var"),
        *("the training mode of 0", "the training mode of 1", "the training mode of the whole"),
    }


def test_what_fails_is_told_as_it_failed_and_settings_are_set_back_all_the_same() -> None:
    with pytest.raises(ZeroDivisionError), settings_kept("it"):
        torch.set_default_dtype(torch.float64)
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(Contamination, match="it changes torch's default dtype"), settings_kept("it"):
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32


def test_tensors_without_plain_values_are_known_by_how_often_they_were_written() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sparse", torch.eye(3).to_sparse())
            self.register_buffer("nowhere", torch.zeros(3, device="meta"))
            self.later = nn.LazyLinear(2)

    odd = Odd()
    before = fingerprint(odd)
    assert fingerprint(odd) == before
    odd.nowhere.add_(1)
    odd.later(torch.zeros(1, 3))
    changed = {name for name, found in fingerprint(odd).items() if before.get(name) != found}
    assert {"the buffer nowhere", "the parameter later.weight", "the parameter later.bias"} <= changed
    assert "the buffer sparse" not in changed


WRITES = {
    "in place": lambda net: net.weight.view(-1)[3].add_(1),
    "past PyTorch's count, the whole": lambda net: net.weight.data.mul_(1.001),
    "another tensor": lambda net: setattr(net, "weight", nn.Parameter(net.weight.clone())),
    "a hook": lambda net: net.register_forward_hook(lambda *_: None),
    "the mode": lambda net: net.train(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_quick_fingerprint_sees_what_pytorch_wrote_and_what_changed_as_a_whole(write: str) -> None:
    net = nn.Linear(40, 40).requires_grad_(False).eval()
    before = quick_fingerprint(net)
    net(torch.rand(3, 40))
    net.to("cpu")
    assert quick_fingerprint(net) == before
    WRITES[write](net)
    assert quick_fingerprint(net) != before


def test_what_a_quick_fingerprint_misses_is_found_before_the_defense_is_used() -> None:
    net, other = nn.Linear(40, 40).requires_grad_(False), nn.Linear(2, 2)
    guard = Guard()
    guard.add("net", net)
    guard.add("other", other)
    with guard.watching("the attack", other, others=True):
        net.weight.data.view(-1)[3] += 1  # not among the values that are sampled
    assert not guard.spoiled and guard.compare("other") is None
    assert guard.compare("net") == "the parameter weight of defense 'net'" and guard.spoiled == {"net"}


def test_a_whole_change_of_another_defense_is_an_error_of_what_made_it_at_once() -> None:
    net, other = nn.Linear(40, 40).requires_grad_(False), nn.Linear(2, 2)
    guard = Guard()
    guard.add("net", net)
    guard.add("other", other)
    with (
        pytest.raises(Contamination, match="the attack changed the parameter weight of defense 'net'"),
        guard.watching("the attack", other, others=True),
    ):
        net.weight.data.zero_()
    assert guard.spoiled == {"net"}


OTHERS = '''

class WritesElsewhere(Step):
    """One weight of every other defense, past PyTorch's count of writes."""

    def act(self, target, x, y):
        for each in EVERY:
            if each is not target.defense and type(each) is not type(target.defense):
                each.net.weight.data.view(-1)[3] += 100


EVERY = []
built = Plain.__init__


def remembered(self):
    built(self)
    EVERY.append(self)


Plain.__init__ = remembered
'''


def test_a_row_after_an_attack_that_wrote_into_its_defense_unseen_is_what_it_is_alone(
    tmp_path: Path, alone: pd.DataFrame
) -> None:
    (tmp_path / "cast.py").write_text(CAST + OTHERS)
    found = ran(tmp_path, ["Copy", "Plain"], ["WritesElsewhere", "Step"])
    assert the_same(found["Plain", "Step"], alone) and the_same(found["Copy", "Step"], alone)
