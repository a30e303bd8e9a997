"""The published checkpoints: true to their schema, to this package's networks and to the measured originals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness.config import registry, yaml_file
from harness.errors import UserError
from harness.weights import published
from harness.weights.published import Published, entries, find

GOLDEN = Path(__file__).parents[2] / "golden"
MEASURED = {
    "edm-cifar10-32x32-cond-vp": ("edm_songunet", "full_params", "a_cond_vp"),
    "edm-cifar10-32x32-uncond-vp": ("edm_songunet", "full_params", "b_uncond_vp"),
    "edm-cifar10-32x32-cond-ve": ("edm_songunet", "full_params", "c_cond_ve"),
    "cifar10-ddpmpp-deep-continuous-vp": ("ncsnpp_diffpure", "parameters", "full"),
    "ncsnpp-cifar10-cond": ("ncsnpp_rdc_cond", "parameters", "full"),
    "ncsnpp-cifar10-multihead": ("ncsnpp_rdc_multihead", "parameters", "full"),
    "wrn-70-16-dropout": ("wrn70_dropout", "full_params"),
    "jem-cifar10": ("jem_wrn", "full_params"),
    "hybvit-cifar10": ("hybvit", "full_params"),
    "pat-self-cifar10": ("pat_resnet50", "full_params"),
}
"""Where the reference numbers say how many parameters the original has."""

WITH_NETWORK = [entry.name for entry in entries() if entry.network]
CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def build(entry: Published) -> torch.nn.Module:
    assert entry.network
    arguments = dict(entry.network)
    cls = registry.find("networks", arguments.pop("type"))
    with torch.device("meta"):
        network: torch.nn.Module = cls(**arguments)
    return network


def plain(**changes: Any) -> dict[str, Any]:
    """A valid entry as a dict, with changes; a value of None removes its key."""
    data = {
        "name": "some-net",
        "summary": "a network",
        "format": "torch",
        "files": [{"name": "net.pt", "url": "https://example.org/net.pt"}],
        "page": "https://example.org",
        "network": {"type": "cnn"},
        "dataset": "digits",
        "licence": "MIT",
        "paper": "https://example.org/paper",
        "repository": "https://example.org/code",
        "source": "invented for a test",
    }
    return {key: value for key, value in (data | changes).items() if value is not None}


def test_every_checkpoint_of_the_paper_is_there() -> None:
    names = {entry.name for entry in entries()}
    assert {f"edm-cifar10-32x32-{c}-{v}" for c in ("cond", "uncond") for v in ("vp", "ve")} <= names
    assert set(MEASURED) <= names
    assert {
        "ddpm-cifar10-32",
        *(f"at-{how}-cifar10-{norm}" for how in ("ddpm", "edm") for norm in ("linf", "l2")),
    } <= names


def test_names_and_places_are_unique() -> None:
    root = Path("cache")
    assert len({entry.name for entry in entries()}) == len(entries())
    assert len({entry.path(root) for entry in entries()}) == len(entries())


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_NETWORK)
def test_networks_can_be_built_and_have_as_many_parameters_as_stated(name: str) -> None:
    entry, network = find(name), build(find(name))
    assert entry.parameters in (None, sum(p.numel() for p in network.parameters()))


@pytest.mark.parametrize("name", MEASURED)
def test_parameters_are_those_of_the_original(name: str) -> None:
    file, *keys = MEASURED[name]
    measured = json.loads((GOLDEN / f"{file}.json").read_text())
    for key in keys:
        measured = measured[key]
    assert find(name).parameters == measured


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_NETWORK)
def test_preprocessing_agrees_with_the_network(name: str) -> None:
    entry, own = find(name), getattr(build(find(name)), "preprocessing", None)
    stated = entry.preprocessing and (tuple(entry.preprocessing.mean), tuple(entry.preprocessing.std))
    assert stated == (own and (tuple(own.mean), tuple(own.std)))


@pytest.mark.parametrize("name", WITH_NETWORK)
def test_class_counts_agree_with_the_network(name: str) -> None:
    entry = find(name)
    assert entry.network
    assert entry.num_classes == (entry.network.get("num_classes") or entry.network.get("label_dim") or None)


@pytest.mark.parametrize("name", [entry.name for entry in entries() if entry.robustbench])
def test_robustbench_knows_the_model_at_that_page(name: str) -> None:
    from robustbench.model_zoo.models import model_dicts  # found only after harness has been imported

    entry = find(name)
    assert entry.robustbench
    by_value = {(d.value, t.value): models for d, threats in model_dicts.items() for t, models in threats.items()}
    zoo = by_value[entry.robustbench.dataset, entry.robustbench.threat]
    assert zoo[entry.robustbench.model]["gdrive_id"] in entry.page
    assert entry.files[0].name == f"{entry.robustbench.dataset}/{entry.robustbench.threat}/{entry.robustbench.model}.pt"


def test_networks_go_by_the_names_that_are_listed() -> None:
    listed = {entry.name for entry in registry.entries("networks")}
    assert {entry.network["type"] for entry in entries() if entry.network} <= listed


def test_no_hash_looks_invented() -> None:
    hashes = [file.sha256 for entry in entries() for file in entry.files if file.sha256]
    assert all(len(set(found)) > 8 for found in hashes)
    assert len(set(hashes)) == len(hashes)


def test_a_name_that_is_nearly_right_is_mended() -> None:
    with pytest.raises(UserError, match="Did you mean 'edm-cifar10-32x32-cond-vp'"):
        find("edm-cifar10-32x32-con-vp")


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": "0" * 64},
        {"name": "With Spaces"},
        {"name": "../up"},
        {"files": []},
        {"files": [{"name": "net.pt", "url": "https://a/b", "sha256": "abc"}]},
        {"files": [{"name": "net.pt", "url": "https://a/b", "sha256": "G" * 64}]},
        {"files": [{"name": "net.pt", "url": "https://a/b", "size": -1}]},
        {"files": [{"name": "net.pt", "url": "file:///etc/passwd"}]},
        {"files": [{"name": "../net.pt", "url": "https://a/b"}]},
        {"files": [{"name": "/net.pt", "url": "https://a/b"}]},
        {"files": [{"name": "a/../net.pt", "url": "https://a/b"}]},
        {"files": [{"name": "net.pt"}]},
        {"files": [{"name": n, "url": "https://a/b"} for n in "ab"]},
        {"manual": "Ask somebody"},
        {"network": None},
        {"format": "pickle"},
        {"format": "diffusers"},
        {"robustbench": {"dataset": "cifar10", "threat": "Linf", "model": "Standard"}},
        {"clean_accuracy": 93.5, "measured": "in percent"},
        {"clean_accuracy": 0.935},
        {"licence": None},
        {"source": None},
    ],
)
def test_entries_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    Published.model_validate(plain())
    with pytest.raises(ValidationError):
        Published.model_validate(plain(**changes))


def test_a_fault_in_the_file_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    path.write_text("some-net:\n  summary: a network\n  format: pickle\n")
    with pytest.raises(UserError, match=rf"{path}:3: checkpoint 'some-net'"):
        published._entry(yaml_file.read(path), "some-net")


def test_what_can_be_fetched_is_fetched_with_all_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path, dict[str, Any]]] = []
    monkeypatch.setattr(published, "fetch", lambda url, target, **known: asked.append((url, target, known)))
    files = [
        {"name": n, "url": f"https://a/{n}", "sha256": SHA256, "size": 7} for n in ("config.json", "net.safetensors")
    ]
    entry = Published.model_validate(plain(format="diffusers", network=None, files=files))
    assert entry.obtain(tmp_path, offline=True) == tmp_path / "some-net"
    assert [(url, str(target)) for url, target, _ in asked] == [
        ("https://a/config.json", "some-net/config.json"),
        ("https://a/net.safetensors", "some-net/net.safetensors"),
    ]
    known = {"root": tmp_path, "sha256": SHA256, "size": 7, "offline": True, "progress": None}
    assert [given for _, _, given in asked] == [known, known]


def test_what_a_person_must_fetch_is_told_and_then_verified(tmp_path: Path) -> None:
    entry = Published.model_validate(plain(files=[{"name": "net.pt", "sha256": SHA256}], manual="Ask the authors"))
    place = tmp_path / "some-net" / "net.pt"
    assert (entry.fetchable, entry.present(tmp_path), entry.path(tmp_path)) == (False, False, place)
    with pytest.raises(UserError, match=rf"Ask the authors \(https://example.org\)\. Its place is {place}"):
        entry.obtain(tmp_path)
    place.parent.mkdir()
    place.write_bytes(CONTENT)
    assert entry.obtain(tmp_path) == place
    assert entry.present(tmp_path)
    place.write_bytes(b"other")
    with pytest.raises(UserError, match=f"the published one {SHA256}"):
        entry.obtain(tmp_path)
