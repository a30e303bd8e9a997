"""Checkpoints: references are found where they say, damage and misfits are told, and nothing in a file is executed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from rich.console import Console
from safetensors.torch import save_file

from harness.cli.run_progress import Display
from harness.config.component import Component
from harness.config.validation import conform
from harness.config.yaml_file import parse
from harness.errors import UserError
from harness.evaluation.run import run
from harness.suite import load_suite
from harness.suite.cell_key import component_hash
from harness.weights import Checkpoint, build_network, packaged
from harness.weights.checkpoint import split_key

SMALL: dict[str, Any] = {"type": "cnn", "width": 4}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(value) for name, value in build_network(SMALL).state_dict().items()}


@pytest.fixture
def file(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    return path


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


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


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


def defense_of(folder: Path, weights: str, more: str = "") -> Component:
    entry = f"{{type: undefended, weights: '{weights}', network: {{type: cnn, width: 4}}{more}}}"
    (folder / "s.yaml").write_text(
        f"suite: s\ndataset: {{name: digits, first: 8}}\ndefenses: {{d: {entry}}}\nattacks: {{clean: {{}}}}\n"
    )
    return load_suite(folder / "s.yaml").cells[0].defense


# --- a normalisation in the file


def test_a_normalisation_in_the_file_is_applied_and_told(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    mean, std = torch.full((1, 1, 1, 1), 0.3), torch.full((1, 1, 1, 1), 0.5)
    save_file(state, tmp_path / "bare.safetensors")
    torch.save({"0.mean": mean, "0.std": std, **{f"1.{name}": t for name, t in state.items()}}, tmp_path / "own.pt")
    x = torch.rand(5, 1, 8, 8, requires_grad=True)
    own, bare = (defense_of(tmp_path, f"./{name}") for name in ("own.pt", "bare.safetensors"))
    logits = own.build()(x)
    assert torch.allclose(logits, bare.build()((x - 0.3) / 0.5), atol=1e-6)
    assert torch.autograd.grad(logits.sum(), x)[0].abs().max() > 0
    assert any("mean [0.3], std [0.5]" in note for note in own.arguments["weights"].notes)
    assert torch.equal(bare.build()(x), defense_of(tmp_path, "./bare.safetensors").build()(x))


def test_two_normalisations_are_refused_with_their_numbers(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"mu": torch.zeros(1) + 0.3, "sigma": torch.ones(1), **state}, tmp_path / "own.pt")
    with pytest.raises(UserError, match=r"mean \[0\.5\].* are given.*mean \[0\.3\], std \[1\]"):
        defense_of(tmp_path, "./own.pt", ", mean: [0.5]").build()
    (tmp_path / "net.py").write_text(
        "from defenses.networks.cnn import CNN\n\n\nclass Net(CNN):\n    preprocessing = ((0.5,), (1.0,))\n"
    )
    checkpoint = Checkpoint.find("./own.pt", tmp_path)
    with pytest.raises(UserError, match=r"mean \[0\.3\], std \[1\], but Net by .*mean \[0\.5\]"):
        checkpoint.network({"type": "./net.py:Net", "width": 4})
    torch.save({"mu": torch.zeros(1), "sigma": torch.zeros(1), **state}, tmp_path / "own.pt")
    with pytest.raises(UserError, match="divides by"):
        Checkpoint.find("./own.pt", tmp_path).network(SMALL)


def test_a_run_tells_what_was_chosen_and_keeps_it(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"ema": {"0.mean": torch.zeros(1), "0.std": torch.ones(1)} | prefixed(state, "1.")}, tmp_path / "own.pt")
    defense_of(tmp_path, "./own.pt#key=ema")
    shown = io.StringIO()
    display = Display(Console(file=shown, width=300))
    run(load_suite(tmp_path / "s.yaml"), tmp_path / "out", torch.device("cpu"), display)
    assert "d: ./own.pt#key=ema: taken from 'ema', as asked" in shown.getvalue()
    assert "normalisation is applied" in shown.getvalue()
    manifest = json.loads((tmp_path / "out/run.json").read_text())
    assert "taken from 'ema', as asked" in manifest["defenses"]["d"]["weights"]["./own.pt#key=ema"]
    flags = manifest["cells"][0]["flags"]
    assert {"weights 'ema' of own.pt", "normalised as own.pt says: (x - mean) / std with mean [0], std [1]"} <= set(
        flags
    )


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: prefixed(s, "_orig_mod."),
        lambda s: prefixed(s, "module._orig_mod."),
        lambda s: {"n_averaged": torch.tensor(5), **prefixed(s, "module.")},
        lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 0.1}},
        lambda s: {"state_dict": prefixed(s, "net."), "pytorch-lightning_version": "2"},
    ],
)
def test_what_a_training_script_wrapped_around_a_network_is_taken_off(
    wrap: Any, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(state), tmp_path / "net.pt")
    assert same(dict(Checkpoint.find(str(tmp_path / "net.pt")).network(SMALL).state_dict()), state)


# --- formats


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_are_read(
    suffix: str, wrap: Any, prefix: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save(wrap({prefix + name: value for name, value in state.items()}), path)
    assert same(Checkpoint.find(str(path)).tensors(), state)


def test_a_prefix_that_not_all_share_is_kept(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "net.pt")
    assert Checkpoint.find(str(tmp_path / "net.pt")).tensors().keys() == {"module.a", "b"}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_code_in_a_file_is_refused_and_not_run(save: Any, tmp_path: Path) -> None:
    path, trace = tmp_path / "net.pt", tmp_path / "executed"
    save({"state_dict": Evil(trace)}, path)
    with pytest.raises(UserError, match="mkdir"):
        Checkpoint.find(str(path)).tensors()
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 not really", b"\xff" * 8 + b"{}"])
def test_a_damaged_file_is_told(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path.name)):
        Checkpoint.find(str(path)).tensors()


@pytest.mark.parametrize("content", [{}, [torch.ones(1)], {"state_dict": {"a": 1}}, torch.ones(2)])
def test_a_torch_file_without_a_state_dict_is_told(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"net\.pt"):
        Checkpoint.find(str(tmp_path / "net.pt")).tensors()


# --- misfits


def test_misfits_are_counted_and_the_first_few_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    del state["head.0.bias"], state["head.0.weight"]
    state |= {f"extra.{i}": torch.ones(1) for i in range(5)}
    state["head.3.bias"] = torch.ones(7)
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError) as caught:
        Checkpoint.find("net.safetensors", base=tmp_path).network(SMALL)
    message = caught.value.message
    assert "does not fit CNN" in message
    assert "2 tensors missing (head.0.bias, head.0.weight)" in message
    assert "5 tensors unexpected (extra.0, extra.1, extra.2, …)" in message
    assert "1 tensors of another shape (head.3.bias is (7,), expected (10,))" in message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"width": 4}, "has no type"),
        ({"type": "cnnn"}, "Did you mean 'cnn'"),
        ({"type": "cnn", "widht": 4}, "widht.* It takes: channels, image_size, width"),
        ({"type": "cnn", "width": "four"}, "network 'cnn' cannot be built"),
        ({"type": "ncsnpp", "ch_mult": 3}, "network 'ncsnpp' cannot be built: .* It takes: image_size, channels, nf, "),
    ],
)
def test_a_network_that_cannot_be_built_is_told(spec: dict[str, Any], message: str, file: Path) -> None:
    with pytest.raises(UserError, match=message):
        Checkpoint.find(str(file)).network(spec)


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
