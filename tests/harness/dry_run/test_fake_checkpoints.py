"""Networks written as their authors publish them are what our readers find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.dry_run.fake_checkpoints import WRITERS, write
from harness.weights import build_network, formats

NCSNPP: dict[str, Any] = {
    "type": "ncsnpp",
    "image_size": 8,
    "channels": 1,
    "nf": 8,
    "ch_mult": [1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
}
EDM: dict[str, Any] = {
    "type": "edm",
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_a_network_comes_back_from_its_layout(layout: str, tmp_path: Path) -> None:
    spec = EDM if layout == "edm" else NCSNPP
    network = build_network(spec)
    write(layout, network, spec, tmp_path / "file")
    found, state = formats.read(tmp_path / "file").tensors, network.state_dict()
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in state.items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_an_edm_file_says_what_network_it_holds_and_names_nothing_of_ours(tmp_path: Path) -> None:
    write("edm", build_network(EDM), EDM, tmp_path / "file")
    loaded = formats.read(tmp_path / "file")
    assert (loaded.format, loaded.network_class) == ("EDM pickle", "EDMPrecond")
    assert loaded.network == {name: value for name, value in EDM.items() if name != "type"}
    content = (tmp_path / "file").read_bytes()
    assert b"torch_utils.persistence" in content and b"harness" not in content


def test_a_training_state_of_score_sde_holds_its_averages_without_names(tmp_path: Path) -> None:
    spec = NCSNPP
    network = build_network(spec)
    write("score-sde", network, spec, tmp_path / "file")
    content = torch.load(tmp_path / "file", weights_only=True)
    assert content.keys() == {"optimizer", "model", "ema", "step"}
    assert all(name.startswith("module.") for name in content["model"])
    assert len(content["ema"]["shadow_params"]) == sum(1 for p in network.parameters() if p.requires_grad)
