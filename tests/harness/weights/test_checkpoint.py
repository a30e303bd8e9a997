"""Checkpoints: references are found where they say, cards describe their files, and what was chosen is kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import save_file

from harness.config.validation import conform
from harness.config.yaml_file import parse
from harness.errors import UserError
from harness.suite.cell_key import component_hash
from harness.weights import Checkpoint, packaged
from harness.weights.checkpoint import split_key
from tests.harness.weights.conftest import SMALL, defense_of, same


def card(path: Path, **changes: Any) -> dict[str, Any]:
    facts = {
        "name": path.stem,
        "summary": "a test",
        "network": SMALL,
        "parameters": 1,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "dataset": "digits",
        "num_classes": 10,
        "clean_accuracy": 0.5,
        "measured": "argmax",
        "recipe": "none",
        "seed": 0,
        "steps": 0,
        "licence": "MIT",
        "source": "a test",
    } | changes
    path.with_suffix(".yaml").write_text(yaml.safe_dump(facts))
    return facts


# --- where a reference leads


def test_a_path_is_relative_to_the_base_or_absolute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    found = [
        Checkpoint.find("./net.safetensors", base=file.parent),
        Checkpoint.find("net.safetensors", base=file.parent),
        Checkpoint.find(str(file)),
        Checkpoint.find("net.safetensors"),
    ]
    assert {os.path.realpath(checkpoint.path) for checkpoint in found} == {os.path.realpath(file)}
    assert {checkpoint.sha256 for checkpoint in found} == {hashlib.sha256(file.read_bytes()).hexdigest()}


def test_a_checkpoint_stays_itself(file: Path) -> None:
    found = Checkpoint.find(str(file))
    assert Checkpoint.find(found) is found


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no checkpoint is called 'digits-cn'\. Did you mean 'digits-cnn'\?"):
        Checkpoint.find("digits-cn")


def test_an_absent_file_is_told_in_full(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Checkpoint.find("./absent.safetensors", base=tmp_path)
    assert "./absent.safetensors" in caught.value.message
    assert str(tmp_path / "absent.safetensors") in caught.value.message


@pytest.mark.parametrize("ref", ["./net", "./net.pt"])
def test_an_absent_file_beside_one_of_another_ending_is_told_which(ref: str, file: Path) -> None:
    with pytest.raises(UserError, match="there is no file") as caught:
        Checkpoint.find(ref, base=file.parent)
    assert caught.value.remedy == "Write net.safetensors"


@pytest.mark.parametrize("ref", ["/", "./"])
def test_a_folder_without_a_name_is_a_folder_like_any_other(
    ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is a folder, but no readable config\.json"):
        Checkpoint.find(ref).network()


def test_a_card_in_place_of_its_weights_is_told(file: Path) -> None:
    card(file)
    with pytest.raises(UserError, match=r"is the card of net\.safetensors") as caught:
        Checkpoint.find("./net.yaml", base=file.parent)
    assert "Name the weights, net.safetensors" in str(caught.value.remedy)


@pytest.mark.parametrize("name", ["./weights.bin", "folder/weights"])
def test_a_format_is_told_by_its_content_whatever_the_file_is_called(name: str, file: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(file.read_bytes())
    assert Checkpoint.find(name, base=tmp_path).tensors().keys() == Checkpoint.find(str(file)).tensors().keys()
    path.write_bytes(b"neither this nor that")
    with pytest.raises(UserError, match=path.name):
        Checkpoint.find(name, base=tmp_path).tensors()


# --- as an argument in a suite


def test_as_an_annotation_it_takes_a_reference_and_gives_its_hash(file: Path) -> None:
    node = parse(f"weights: ./{file.name}", file.parent / "suite.yaml").root.value["weights"]
    found = conform(node, Checkpoint, "'weights'")
    assert found.path.samefile(file)
    written = TypeAdapter(Checkpoint).dump_python(found, mode="json")
    assert written == {"name": "./net.safetensors", "sha256": found.sha256}


@pytest.mark.parametrize("value", ["7", "[a]", "digits-nothing", "./absent.pt"])
def test_as_an_annotation_it_tells_the_line_of_a_mistake(value: str, tmp_path: Path) -> None:
    node = parse(f"# weights\nweights: {value}", tmp_path / "suite.yaml").root.value["weights"]
    with pytest.raises(UserError, match=r"suite\.yaml:2: "):
        conform(node, Checkpoint, "'weights'")


# --- cards


def test_a_card_names_the_network(file: Path, state: dict[str, torch.Tensor]) -> None:
    card(file)
    network = Checkpoint.find(str(file)).network()
    assert same(dict(network.state_dict()), state)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_without_a_card_the_network_must_be_told(file: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"does not say what network .* Add `network:"):
        Checkpoint.find(str(file)).network()
    assert same(dict(Checkpoint.find(str(file)).network(SMALL).state_dict()), state)


def test_a_file_that_differs_from_its_card_is_refused(file: Path) -> None:
    card(file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        Checkpoint.find(str(file))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_acuracy": 1}, "there is no key 'clean_acuracy'.* Did you mean 'clean_accuracy'?"),
        ({"clean_accuracy": 98}, "less than or equal to 1"),
        ({"sha256": "0"}, "sha256"),
    ],
)
def test_a_wrong_card_is_told(changes: dict[str, Any], message: str, file: Path) -> None:
    card(file, **changes)
    with pytest.raises(UserError, match=r"net\.yaml:\d+.*" + message):
        Checkpoint.find(str(file))


@pytest.mark.parametrize(
    "text",
    [
        "suite: net\ndataset: {name: digits}\ndefenses: {d: {type: undefended, weights: ./net.safetensors}}\n",
        "recipe: net\nnetwork: {type: cnn}\nsteps: 3\n",
        "- a list\n",
        "{{ no YAML at all",
        "",
    ],
)
def test_a_file_beside_weights_that_is_no_card_is_let_be(text: str, file: Path) -> None:
    file.with_suffix(".yaml").write_text(text)
    assert Checkpoint.find(str(file)).card is None


# --- one of several sets of weights


@pytest.mark.parametrize(
    ("ref", "plain", "key"),
    [
        ("./x.pt", "./x.pt", None),
        ("./x.pt#key=ema", "./x.pt", "ema"),
        ("./x#1.pt", "./x#1.pt", None),
        ("./x#1.pt#key=a.b", "./x#1.pt", "a.b"),
        ("https://h/x.pt#sha256=ab", "https://h/x.pt#sha256=ab", None),
        ("https://h/x.pt#sha256=ab&key=ema", "https://h/x.pt#sha256=ab", "ema"),
        ("https://h/x.pt#key=ema&sha256=ab", "https://h/x.pt#sha256=ab", "ema"),
        ("./x.pt#key=", "./x.pt#key=", None),
    ],
)
def test_a_reference_says_which_weights_of_a_file_are_meant(ref: str, plain: str, key: str | None) -> None:
    assert split_key(ref) == (plain, key)


def test_the_key_of_the_weights_counts_in_the_identity(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": state, "ema": {name: 2 * value for name, value in state.items()}}, tmp_path / "both.pt")
    found = {key: defense_of(tmp_path, f"./both.pt#key={key}") for key in ("model", "ema")}
    assert component_hash(found["model"]) != component_hash(found["ema"])
    biases = [defense.build().network.state_dict()["head.3.bias"] for defense in found.values()]
    assert torch.equal(2 * biases[0], biases[1]) and torch.equal(biases[0], state["head.3.bias"])
    with pytest.raises(UserError, match="#key=ema"):
        defense_of(tmp_path, "./both.pt").build()


def test_loading_leaves_the_global_generator_alone(file: Path) -> None:
    before = torch.get_rng_state()
    Checkpoint.find(str(file)).network(SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_users_own_network_is_found_beside_the_suite(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\n\nclass Net(nn.Linear):\n    pass\n")
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "net.safetensors")
    checkpoint = Checkpoint.find("net.safetensors", base=tmp_path)
    network = checkpoint.network({"type": "./mine.py:Net", "in_features": 3, "out_features": 2})
    assert network(torch.ones(1, 3)).tolist() == [[4, 4]]


# --- the zoo


@pytest.mark.parametrize("name", sorted(packaged()))
def test_packaged_weights_are_those_of_their_card(name: str) -> None:
    found = Checkpoint.find(name)
    assert found.card is not None
    assert found.card.name == name
    assert found.card.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
    assert found.card.parameters == sum(parameter.numel() for parameter in found.network().parameters())
    assert found.path.stat().st_size <= 3e6
