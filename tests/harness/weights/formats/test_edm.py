"""EDM's pickles: the published tiny files, and our networks in the published layout."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from defenses.networks.edm import DDPMPP, EDM, NCSNPP
from harness.errors import UserError
from harness.weights import formats
from helpers.weight_files import weigh

FILES = {
    "edm_tiny_cond.pkl": "a_cond_vp",
    "edm_tiny_uncond.pkl": "b_uncond_vp",
    "edm_tiny_cond_ve.pkl": "c_cond_ve",
}
SHAPE = (2, 3, 16, 16)
PUBLISHED = {"model_type": "SongUNet", "decoder_type": "standard", "use_fp16": False}
SMALL = {"img_resolution": 8, "img_channels": 1, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_published_file_computes_what_the_original_computed(name, published, golden, rule_image, rule_noise):
    loaded, numbers = formats.read(published(name)), golden("edm_songunet")
    network = EDM.from_published(loaded.network).eval()
    network.load_state_dict(loaded.tensors)
    x, noise = 2 * rule_image(*SHAPE) - 1, rule_noise(*SHAPE)
    conditions = {"[0,3]": torch.tensor([0, 3]), "None": None} if network.label_dim else {"None": None}
    for sigma in (0.5, 3.0):
        for label, y in conditions.items():
            recorded = numbers["outputs"][f"{FILES[name]}/D_sigma_{sigma:g}_y_{label}"]
            with torch.no_grad():
                found = network(x + sigma * noise, torch.tensor(sigma), y).flatten()[recorded["idx"]]
            expected = torch.tensor(recorded["at_idx"])
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_gives_the_published_names_and_arguments(name, published, golden):
    loaded, numbers = formats.read(published(name)), golden("edm_songunet")
    listing = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in loaded.tensors.items()]
    assert listing == numbers["state_dict"][FILES[name]]
    assert loaded.network == numbers["config"][FILES[name]]["tiny"]
    assert loaded.network_class == "EDMPrecond"


def test_a_file_of_an_older_numpy_is_read_alike(published, tmp_path):
    new = published("edm_tiny_cond.pkl")
    old = tmp_path / "old.pkl"
    content = new.read_bytes()
    older = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert older != content
    old.write_bytes(older)
    found, expected = formats.read(old).tensors, formats.read(new).tensors
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.parametrize("flavour", [DDPMPP, NCSNPP], ids=["ddpm++", "ncsn++"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_network_comes_back_from_the_published_layout(flavour, protocol, edm_pickle, tmp_path):
    arguments = SMALL | {name: list(v) if isinstance(v, tuple) else v for name, v in flavour.items()} | PUBLISHED
    network = weigh(EDM.from_published(arguments))
    path = tmp_path / "network.pkl"
    path.write_bytes(edm_pickle(network, arguments, protocol))
    loaded = formats.read(path)
    again = EDM.from_published(loaded.network).eval()
    again.load_state_dict(loaded.tensors)
    x = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    y = torch.tensor([1, 7])
    assert torch.equal(again(x, torch.tensor(0.7), y), network(x, torch.tensor(0.7), y))
    assert loaded.network == arguments


def test_buffers_that_are_not_saved_are_left_out(edm_pickle, tmp_path):
    network = nn.Linear(2, 2)
    network.register_buffer("saved", torch.ones(1))
    network.register_buffer("passing", torch.ones(1), persistent=False)
    (tmp_path / "file").write_bytes(edm_pickle(network, {}))
    assert list(formats.read(tmp_path / "file").tensors) == list(network.state_dict())


def test_the_last_weights_are_not_in_the_file(published):
    with pytest.raises(UserError, match="averaged weights"):
        formats.read(published("edm_tiny_cond.pkl"), ema=False)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [({"G_ema": None, "D": None}, "no network under 'ema'.*G_ema, D"), ({}, "nothing"), ([1], "a list")],
)
def test_a_pickle_of_another_kind_is_told_apart(content, complaint, tmp_path):
    (tmp_path / "file").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=complaint):
        formats.read(tmp_path / "file")


@pytest.mark.parametrize("arguments", [{"channel_mult": [[1]]}, {"dropout": 1j}, {"a": list(range(100))}])
def test_arguments_that_are_no_plain_values_are_refused(arguments, edm_pickle, tmp_path):
    (tmp_path / "file").write_bytes(edm_pickle(nn.Linear(2, 2), arguments))
    with pytest.raises(UserError, match=r"no plain value|code and not data"):
        formats.read(tmp_path / "file")
