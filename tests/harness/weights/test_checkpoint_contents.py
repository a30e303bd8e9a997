"""What is in a file of weights: its normalisation, its wrappers, its format, its misfits, and no code that is run."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from harness.cli.run_progress import Display
from harness.errors import UserError
from harness.evaluation.run import run
from harness.suite import load_suite
from harness.weights import Checkpoint
from tests.harness.weights.conftest import SMALL, defense_of, same

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
