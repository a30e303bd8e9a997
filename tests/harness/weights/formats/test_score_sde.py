"""score-SDE's training state: averages without names are laid over the parameters they belong to."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from defenses.networks.ncsnpp import NCSNpp, NCSNppConfig
from harness.errors import UserError
from harness.weights import formats
from helpers.weight_files import weigh

SHAPE = (2, 3, 16, 16)
SMALL = {"nf": 8, "image_size": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}


def training_state(network, factor=0.5):
    """As score-SDE saves it: the last weights in parallel, the averages as a list; `factor` sets the two apart."""
    last = OrderedDict((f"module.{name}", factor * value) for name, value in network.state_dict().items())
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    moments = {i: {"step": 7, "exp_avg": torch.zeros_like(parameter)} for i, parameter in enumerate(trained)}
    optimizer = {"state": moments, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999), "params": list(moments)}]}
    averages = [parameter.detach().clone() for parameter in trained]
    ema = {"decay": 0.9999, "num_updates": 7, "shadow_params": averages}
    return {"optimizer": optimizer, "model": last, "ema": ema, "step": 7}


@pytest.fixture
def state():
    return training_state(weigh(NCSNpp(**SMALL)))


@pytest.fixture
def read(tmp_path):
    def through_a_file(content, **options):
        torch.save(content, tmp_path / "checkpoint_8.pth")
        return formats.read(tmp_path / "checkpoint_8.pth", **options)

    return through_a_file


@pytest.mark.parametrize("label", [10.5, 500.0])
def test_the_published_layout_computes_what_the_original_computed(label, published, golden, rule_image):
    loaded, numbers = formats.read(published("scoresde_nano_checkpoint.pth")), golden("ncsnpp_diffpure")
    network = NCSNpp(NCSNppConfig.from_published(numbers["configs"]["nano"])).eval()
    network.load_state_dict(loaded.tensors)
    recorded = numbers["outputs"][f"nano_eps_label_{label:g}"]
    with torch.no_grad():
        found = network(2 * rule_image(*SHAPE) - 1, torch.full((2,), label)).flatten()[recorded["idx"]]
    expected = torch.tensor(recorded["at_idx"])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_last_weights_are_given_when_asked_for(published):
    path = published("scoresde_nano_checkpoint.pth")
    averaged, last = formats.read(path).tensors, formats.read(path, ema=False).tensors
    assert averaged.keys() == last.keys()
    assert all(torch.equal(last[name], 0.5 * averaged[name]) for name in averaged if name != "sigmas")
    assert torch.equal(averaged["sigmas"], last["sigmas"])


@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_every_trained_parameter_gets_its_own_average(embedding, read):
    network = weigh(NCSNpp(**SMALL, embedding_type=embedding))
    found = read(training_state(network)).tensors
    again = NCSNpp(**SMALL, embedding_type=embedding)
    again.load_state_dict(found)
    for name, parameter in network.named_parameters():
        assert torch.equal(found[name], parameter if parameter.requires_grad else 0.5 * parameter)
    assert torch.equal(found["sigmas"], 0.5 * network.sigmas)


def test_the_notes_say_which_weights_were_taken(state, read):
    assert any("averaged weights (EMA) laid over" in note for note in read(state).notes)
    assert any("last weights of training" in note for note in read(state, ema=False).notes)


def test_a_missing_average_is_refused(state, read):
    state["ema"]["shadow_params"].pop()
    with pytest.raises(UserError, match=r"has \d+ averages for the \d+ parameters"):
        read(state)


def test_an_average_of_another_shape_is_refused_by_its_number_and_name(state, read):
    averages = state["ema"]["shadow_params"]
    averages[2], averages[3] = averages[3], averages[2]
    with pytest.raises(UserError, match=r"Average 2 .* parameter 'all_modules\.1\.weight'"):
        read(state)


def test_an_average_that_is_no_tensor_is_refused(state, read):
    state["ema"]["shadow_params"][0] = "tensor"
    with pytest.raises(UserError, match="Average 0 of the training state is str"):
        read(state)


def test_a_model_that_is_no_state_dict_is_refused(state, read):
    state["model"]["module.sigmas"] = None
    with pytest.raises(UserError, match="'model' is not a state dict"):
        read(state)
