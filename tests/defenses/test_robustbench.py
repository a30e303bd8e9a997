"""RobustBench's models: found where its loader looks, loaded without a network, and never able to run code."""

from __future__ import annotations

import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from defenses.robustbench import RobustBench
from harness import suite
from harness.defense import Defense
from harness.errors import UserError
from harness.suite.cell_key import component_hash

# Of timm, torchvision and robustbench, about their own code.
pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "UserWarning")),
]

SMALL = "Ding2020MMA"
"""The smallest model of the zoo that both Linf and L2 have: 23 MB."""
PAPER = ["Rebuffi2021Fixing_70_16_cutmix_ddpm", "Wang2023Better_WRN-70-16"]
ACCURACY = {"Linf": [0.8854, 0.9325], "L2": [0.9241, 0.9554]}
FULL_SIZE = 266_796_506
SWITCHES = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_HOME")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The hosts that were asked for: there is no network."""
    hosts: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> None:
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.delenv("HARNESS_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: refuse(address))
    return hosts


def zoo(model: str, threat: str, dataset: str = "cifar10") -> dict[str, Any]:
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    entry: dict[str, Any] = model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat)][model]
    return entry


def place(folder: Path, model: str, threat: str = "Linf", dataset: str = "cifar10") -> Path:
    path = folder / "models" / dataset / threat / f"{model}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def from_suite(tmp_path: Path) -> Callable[..., Defense]:
    """The defense that a suite describes, in whose folder lies `models`."""

    def built(**arguments: Any) -> Defense:
        document = {
            "suite": "zoo",
            "dataset": {"name": "cifar10", "first": 10},
            "defenses": {"at": {"type": "robustbench", "model_dir": "./models"} | arguments},
            "attacks": {"clean": {}},
        }
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(document))
        defense: Defense = suite.load_suite(tmp_path / "suite.yaml").cells[0].defense.build()
        return defense

    return built


# --- loading


@pytest.mark.parametrize(
    ("threat", "wrap"),
    [("Linf", dict), ("L2", lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}})],
)
def test_a_file_where_robustbench_would_put_it_is_loaded_without_a_network(
    threat: str, wrap: Callable, from_suite: Callable, tmp_path: Path, asked: list[Any]
) -> None:
    direct = zoo(SMALL, threat)["model"]().eval()
    torch.save(wrap(direct.state_dict()), place(tmp_path, SMALL, threat))
    generator = torch.get_rng_state()
    defense = from_suite(model=SMALL, threat=threat)
    assert torch.equal(torch.get_rng_state(), generator)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert torch.equal(defense(x), direct(x))
    assert torch.autograd.grad(defense(x).sum(), x)[0].abs().sum() > 0
    assert not defense.network.training
    assert not any(parameter.requires_grad for parameter in defense.parameters())
    assert (defense.num_classes, defense.expected_dataset, defense.expected_accuracy) == (10, "cifar10", None)
    assert not asked


@pytest.mark.parametrize("threat", ACCURACY)
@pytest.mark.parametrize("index", [0, 1])
def test_the_papers_models_go_through_robustbenchs_loader_at_full_size(
    index: int, threat: str, from_suite: Callable, tmp_path: Path, asked: list[Any]
) -> None:
    """With tensors that have shapes and no memory."""
    model = PAPER[index]
    with torch.device("meta"):
        direct = zoo(model, threat)["model"]()
        torch.save({"state_dict": direct.state_dict()}, place(tmp_path, model, threat))
        defense = from_suite(model=model, threat=threat)
    assert type(defense.network).__name__ == "DMWideResNet"
    assert {key: value.shape for key, value in defense.network.state_dict().items()} == {
        key: value.shape for key, value in direct.state_dict().items()
    }
    assert sum(parameter.numel() for parameter in defense.parameters()) == FULL_SIZE
    assert defense(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
    assert defense.expected_accuracy == ACCURACY[threat][index]
    assert not asked


def test_a_model_of_cifar100_tells_a_hundred_classes_apart(from_suite: Callable, tmp_path: Path) -> None:
    model = "Rice2020Overfitting"
    with torch.device("meta"):
        state = zoo(model, "Linf", "cifar100")["model"]().state_dict()
        torch.save(state, place(tmp_path, model, "Linf", "cifar100"))
        defense = from_suite(model=model, dataset="cifar100")
    assert (defense.num_classes, defense.expected_dataset) == (100, "cifar100")


def test_images_of_another_dataset_are_told(tmp_path: Path) -> None:
    torch.save(zoo(SMALL, "Linf")["model"]().state_dict(), place(tmp_path, SMALL))
    defense = RobustBench(SMALL, model_dir=tmp_path / "models")
    with pytest.raises(UserError, match=r"trained on cifar10, .* \(3, 32, 32\); these have shape \(1, 8, 8\)"):
        defense(torch.rand(2, 1, 8, 8))


def test_weights_of_another_model_are_told(from_suite: Callable, tmp_path: Path) -> None:
    path = place(tmp_path, SMALL)
    torch.save({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError) as caught:
        from_suite(model=SMALL)
    assert str(path) in caught.value.message
    assert "Missing key(s)" in caught.value.message


@pytest.mark.long
def test_importing_the_defense_imports_nothing_of_robustbench() -> None:
    code = "import sys, defenses.robustbench; assert not {'robustbench', 'timm', 'gdown'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_folder_of_the_files_is_no_part_of_a_results_identity(from_suite: Callable, tmp_path: Path) -> None:
    keys = set()
    for folder in ("models", "elsewhere"):
        document = f"""
            suite: zoo
            dataset: {{name: cifar10}}
            defenses: {{at: {{type: robustbench, model: {SMALL}, model_dir: ./{folder}}}}}
            attacks: {{clean: {{}}}}
        """
        (tmp_path / "suite.yaml").write_text(document)
        keys.add(component_hash(suite.load_suite(tmp_path / "suite.yaml").cells[0].defense))
    assert len(keys) == 1


# --- what is not there


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"model": "Wang2023Beter_WRN-70-16"}, "Did you mean 'Wang2023Better_WRN-70-16'?"),
        ({"model": PAPER[1], "threat": "corruptions"}, "The zoo has it for Linf on cifar10, L2 on cifar10"),
        ({"model": "../../evil"}, "Valid names: "),
    ],
)
def test_an_unknown_model_gets_the_nearest(
    arguments: dict[str, Any], remedy: str, from_suite: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is not in RobustBench's zoo for threat") as caught:
        from_suite(**arguments)
    assert remedy in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "suite.yaml") + ":")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("offline", ["", "1"])
def test_an_absent_file_is_told_with_its_address_its_place_and_what_to_do(
    offline: str, from_suite: Callable, tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_OFFLINE", offline)
    path = tmp_path / "models" / "cifar10" / "L2" / f"{PAPER[1]}.pt"
    address = f"https://drive.google.com/file/d/{zoo(PAPER[1], 'L2')['gdrive_id']}/view"
    with pytest.raises(UserError) as caught:
        from_suite(model=PAPER[1], threat="L2")
    assert f"cannot be downloaded from {address} to {path}: " in caught.value.message
    assert caught.value.remedy == f"Open the address in a browser and save the file as {path}"
    assert bool(asked) is not bool(offline)
    assert not path.exists()


def test_an_absent_file_is_downloaded_once_to_its_place(
    from_suite: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = []

    def download(drive: str, path: Path) -> None:
        print("Downloading ...")
        downloads.append((drive, path))
        torch.save(zoo(SMALL, "L2")["model"]().state_dict(), path)

    monkeypatch.setattr("robustbench.utils.download_gdrive_new", download)
    first, second = (from_suite(model=SMALL, threat="L2").state_dict() for _ in range(2))
    assert downloads == [(zoo(SMALL, "L2")["gdrive_id"], tmp_path / "models" / "cifar10" / "L2" / f"{SMALL}.pt")]
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert capsys.readouterr().out == ""


def test_every_member_of_an_ensemble_is_asked_for_by_its_name(from_suite: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Linf/Chen2020Adversarial\.pt_m0\.pt: "):
        from_suite(model="Chen2020Adversarial")
    place(tmp_path, "Chen2020Adversarial.pt_m0").touch()
    with pytest.raises(UserError, match=r"Linf/Chen2020Adversarial\.pt_m1\.pt: "):
        from_suite(model="Chen2020Adversarial")


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (
            {"model": "Debenedetti2022Light_XCiT-S12"},
            "https://github.com/RobustBench/robustbench/releases/download/v1.1/debenedetti2022light-xcit-s-cifar10-linf.pth.tar",
        ),
        (
            {"model": "Standard_R50", "dataset": "imagenet"},
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        ),
    ],
)
def test_models_published_elsewhere_belong_below_the_same_folder(
    arguments: dict[str, str], address: str, from_suite: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    path = tmp_path / "models" / "hub" / "checkpoints" / address.rpartition("/")[2]
    with pytest.raises(UserError) as caught:
        from_suite(**arguments)
    assert f"cannot fetch {address} to {path}" in caught.value.message


# --- hostile files


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def write_zip(path: Path, evil: Evil) -> None:
    torch.save({"state_dict": evil}, path)


def write_legacy(path: Path, evil: Evil) -> None:
    torch.save({"state_dict": evil}, path, _use_new_zipfile_serialization=False)


def write_pickle(path: Path, evil: Evil) -> None:
    path.write_bytes(pickle.dumps({"state_dict": evil}, protocol=2))


def write_tar(path: Path, evil: Evil) -> None:
    """The layout of PyTorch 0.1, in which code ran before 2.6 whatever was asked for (CVE-2025-32434)."""
    content = pickle.dumps(evil, protocol=2)
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_program(path: Path, evil: Evil) -> None:
    torch.jit.script(torch.nn.ReLU()).save(str(path))


def write_page(path: Path, evil: Evil) -> None:
    path.write_text("<!doctype html><title>Google Drive - Quota exceeded</title>")


def write_nothing(path: Path, evil: Evil) -> None:
    path.touch()


@pytest.mark.parametrize(
    "write", [write_zip, write_legacy, write_pickle, write_tar, write_program, write_page, write_nothing]
)
@pytest.mark.parametrize("trusting", ["0", "1"])
def test_code_in_a_file_never_runs_whatever_the_environment_says(
    write: Callable, trusting: str, from_suite: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", trusting)
    path, trace = place(tmp_path, SMALL), tmp_path / "executed"
    write(path, Evil(trace))
    environment = {name: os.environ.get(name) for name in SWITCHES}
    with pytest.raises(UserError, match="cannot be loaded from") as caught:
        from_suite(model=SMALL)
    assert str(path) in caught.value.message
    assert not trace.exists()
    assert {name: os.environ.get(name) for name in SWITCHES} == environment


def test_code_in_a_file_of_pytorchs_hub_never_runs(from_suite: Callable, tmp_path: Path) -> None:
    """torchvision reads its files with the switch on the dangerous side."""
    path, trace = tmp_path / "models" / "hub" / "checkpoints" / "resnet50-0676ba61.pth", tmp_path / "executed"
    path.parent.mkdir(parents=True)
    write_zip(path, Evil(trace))
    with pytest.raises(UserError, match="the file is damaged, or holds code, which is never run"):
        from_suite(model="Standard_R50", dataset="imagenet")
    assert not trace.exists()
