"""Our networks, saved as the authors of each published checkpoint save them, come back with the same outputs."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from defenses.networks.edm import EDM
from defenses.networks.hybvit import HybViT
from defenses.networks.jem_wrn import JEMWRN
from defenses.networks.ncsnpp import NCSNpp
from defenses.networks.pat_resnet import PATResNet
from defenses.networks.wrn_dropout import WRNDropout
from harness.weights import formats
from harness.weights.formats import state_dict_keys
from helpers.weight_files import weigh

EMBEDDED = {"nf": 8, "image_size": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}


def prefixed(network: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in network.state_dict().items()}


def pat():
    return PATResNet(blocks=(1, 1, 1, 1), width=4)


def jem():
    return JEMWRN(depth=10, width=1)


def hybvit():
    return HybViT(img_size=32, patch_size=8, dim=16, depth=1, heads=2, dim_head=8)


def wrn():
    return WRNDropout(depth=10, width=1)


def robustness(network):
    """The robustness library saves the network twice, beside its preprocessing, all of it in parallel."""
    preprocessing = zip(("new_mean", "new_std"), network.preprocessing, strict=True)
    numbers = {name: torch.tensor(values).view(3, 1, 1) for name, values in preprocessing}
    parts = ("normalizer", "attacker.normalize")
    extra = {f"module.{part}.{name}": value for part in parts for name, value in numbers.items()}
    return {"model": prefixed(network, "module.model.") | prefixed(network, "module.attacker.model.") | extra}


CLASSIFIERS = {
    "bare": (jem, lambda network: network.state_dict()),
    "jem": (jem, lambda net: {"model_state_dict": net.state_dict(), "replay_buffer": torch.zeros(5, 3, 32, 32)}),
    "pat": (
        pat,
        lambda net: {"model": net.state_dict(), "optimizer": {"state": {}}, "iteration": 3, "arch": "resnet50"},
    ),
    "pat by robustness": (pat, robustness),
    "hybvit": (hybvit, lambda net: {"model_state_dict": net.state_dict(), "epoch": 3, "scheduler": {"milestones": 1}}),
    "hybvit in parallel": (
        hybvit,
        lambda net: {
            "model_state_dict": {
                name.replace("denoise_fn.", "denoise_fn.module."): value for name, value in net.state_dict().items()
            }
        },
    ),
    "wrn dropout": (wrn, lambda net: prefixed(net, "module.")),
    "lightning-like": (wrn, lambda net: {"state_dict": net.state_dict()}),
    "net": (wrn, lambda net: {"net": prefixed(net, "module."), "acc": 93.5, "epoch": 4}),
}


@pytest.fixture
def x():
    return torch.sin(torch.arange(2 * 3 * 32 * 32) * 0.1).reshape(2, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", CLASSIFIERS)
def test_a_classifier_comes_back_from_a_torch_file(layout, zipped, x, tmp_path):
    build, wrap = CLASSIFIERS[layout]
    network = weigh(build())
    torch.save(wrap(network), tmp_path / "file", _use_new_zipfile_serialization=zipped)
    again = build().eval()
    loaded = state_dict_keys.aligned(formats.read(tmp_path / "file").tensors, again.state_dict())
    again.load_state_dict(loaded.tensors)
    assert torch.equal(again(x), network(x))
    assert (loaded.normalization is not None) == (layout == "pat by robustness")
    assert loaded.normalization is None or loaded.normalization.agrees(*network.preprocessing)


def test_a_classifier_comes_back_from_safetensors(x, tmp_path):
    network = weigh(jem())
    safetensors.torch.save_file(network.state_dict(), tmp_path / "file")
    again = jem().eval()
    again.load_state_dict(formats.read(tmp_path / "file").tensors)
    assert torch.equal(again(x), network(x))


def test_what_is_left_aside_is_noted(tmp_path):
    network = weigh(jem())
    torch.save({"model_state_dict": prefixed(network, "module."), "replay_buffer": torch.zeros(3)}, tmp_path / "file")
    notes = formats.read(tmp_path / "file").notes
    assert notes[:2] == ("taken from 'model_state_dict'", "left aside: 'replay_buffer'")
    assert "module." in notes[2]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_state_dict_of_edm_keeps_the_prefix_that_is_its_own(zipped, tmp_path):
    small = {"model_channels": 8, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}
    network = weigh(EDM(8, 1, 10, **small))
    torch.save(network.state_dict(), tmp_path / "file", _use_new_zipfile_serialization=zipped)
    again = EDM(8, 1, 10, **small).eval()
    loaded = state_dict_keys.aligned(formats.read(tmp_path / "file").tensors, again.state_dict())
    again.load_state_dict(loaded.tensors)
    assert loaded.notes == [] and loaded.normalization is None
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    assert torch.equal(again(x, torch.tensor(0.5)), network(x, torch.tensor(0.5)))


@pytest.mark.parametrize("heads", [None, 10], ids=["conditional", "multi-head"])
def test_a_network_of_rdc_comes_back_from_its_state_dict(heads, tmp_path):
    options = EMBEDDED | {"num_classes": 10} | ({"heads": heads} if heads else {})
    network = weigh(NCSNpp(**options))
    torch.save(network.state_dict(), tmp_path / "ema_1100.pt")
    again = NCSNpp(**options).eval()
    again.load_state_dict(formats.read(tmp_path / "ema_1100.pt").tensors)
    x, t = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8), torch.tensor([500])
    assert torch.equal(again(x, t), network(x, t))


def test_half_precision_integers_and_empty_tensors_come_back(tmp_path):
    state = {
        "half": torch.arange(6).half().reshape(2, 3).t(),
        "brain": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "flag": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "slice": torch.arange(10.0)[3:7],
    }
    for zipped in (True, False):
        torch.save(state, tmp_path / "file", _use_new_zipfile_serialization=zipped)
        found = formats.read(tmp_path / "file").tensors
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)
        assert all(found[name].dtype == state[name].dtype for name in state)


class BeforeZeroFour:
    """A tensor as torch pickled it before 0.4."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[object, ...]:
        storage = self.tensor.storage()
        return torch._utils._rebuild_tensor, (storage, self.tensor.storage_offset(), (2, 3), self.tensor.stride())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_tensors_from_before_torch_0_4_are_read(tmp_path):
    tensor = torch.arange(12.0).reshape(4, 3)[1:3]
    path = tmp_path / "old.th"
    torch.save({"state_dict": {"w": BeforeZeroFour(tensor)}}, path, _use_new_zipfile_serialization=False)
    assert torch.load(path, weights_only=True)["state_dict"]["w"].equal(tensor)
    assert formats.read(path).tensors["w"].equal(tensor)
