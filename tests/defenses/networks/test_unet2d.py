"""Networks of Hugging Face against diffusers itself, where it is installed; and the message where it is not."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from defenses.diffusion.conditioning import NullClass, Unconditional
from defenses.diffusion.denoiser import NO_CLASS, DiscreteVP, WithoutVariance
from defenses.networks.unet2d import UNet2D
from harness.errors import UserError
from helpers.originals import assert_twice_differentiable

CIFAR = {  # the layout of google/ddpm-cifar10-32
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
TINY = CIFAR | {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "norm_num_groups": 4,
    "sample_size": 8,
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
LABELS = torch.tensor([3, 700])
OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@pytest.fixture
def saved(tmp_path) -> Callable[..., tuple[nn.Module, dict[str, Any], dict[str, Tensor]]]:
    """saved(**changes): diffusers' own tiny network, and the config and tensors of the folder it was saved to."""
    diffusers = pytest.importorskip("diffusers")

    def save(**changes: Any) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
        arguments = {name: value for name, value in (TINY | changes).items() if not name.startswith("_")}
        original = diffusers.UNet2DModel(**arguments)
        generator = torch.Generator().manual_seed(0)
        for parameter in original.parameters():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        original.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        return original.eval(), config, load_file(tmp_path / "diffusion_pytorch_model.safetensors")

    return save


def loaded(config: dict[str, Any], tensors: dict[str, Tensor]) -> UNet2D:
    network = UNet2D.from_published(config).eval()
    network.load_state_dict(UNet2D.current_names(tensors))
    return network


def images() -> Tensor:
    return torch.linspace(-1, 1, 384, dtype=torch.float64).sin().view(2, 3, 8, 8)


# --- with or without diffusers ---------------------------------------------------------------------------------------


def test_without_diffusers_the_extra_to_install_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'adversarial-harness\[diffusers\]'"):
        UNet2D(sample_size=8)


def test_a_folder_of_another_class_of_network_is_refused() -> None:
    with pytest.raises(UserError, match="'UNet2DConditionModel'"):
        UNet2D.from_published({"_class_name": "UNet2DConditionModel"})


def test_attention_layers_of_old_folders_get_their_present_names() -> None:
    names = {
        "mid_block.attentions.0.query.weight": "mid_block.attentions.0.to_q.weight",
        "up_blocks.2.attentions.1.proj_attn.bias": "up_blocks.2.attentions.1.to_out.0.bias",
        "mid_block.attentions.0.group_norm.weight": "mid_block.attentions.0.group_norm.weight",
        "mid_block.attentions.0.to_k.weight": "mid_block.attentions.0.to_k.weight",
        "time_embedding.linear_1.weight": "time_embedding.linear_1.weight",
    }
    assert list(UNet2D.current_names({name: torch.zeros(1) for name in names})) == list(names.values())


# --- with diffusers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_a_saved_network_computes_what_it_computed(saved, dtype, tolerance) -> None:
    original, config, tensors = saved()
    x = images().to(dtype)
    expected = original.to(dtype)(x, LABELS).sample
    torch.testing.assert_close(loaded(config, tensors).to(dtype)(x, LABELS), expected, rtol=0, atol=tolerance)


def test_a_folder_of_an_old_version_computes_the_same(saved) -> None:
    original, config, tensors = saved()
    old = dict(tensors)
    for now, then in OLD.items():
        old = {name.replace(now, then): tensor for name, tensor in old.items()}
    assert old.keys() != tensors.keys()
    x = images().float()
    torch.testing.assert_close(loaded(config, old)(x, LABELS), original(x, LABELS).sample, rtol=0, atol=1e-4)


def test_the_network_of_the_published_folder_has_its_size_and_names() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = UNet2D.from_published(CIFAR)
        original = diffusers.UNet2DModel(**{name: value for name, value in CIFAR.items() if not name.startswith("_")})
    assert list(network.state_dict()) == list(original.state_dict())
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


def test_an_argument_that_diffusers_does_not_have_is_refused() -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(UserError, match=r"'in_channel'.*'in_channels'"):
        UNet2D(in_channel=3)


def test_a_network_without_classes_is_asked_without_them(saved) -> None:
    network = loaded(*saved()[1:]).double()
    denoiser = Unconditional(DiscreteVP(network))
    found = denoiser.eps(images(), LABELS + 1, torch.tensor([NO_CLASS, NO_CLASS]))
    torch.testing.assert_close(found, network(images(), LABELS))
    with pytest.raises(UserError, match="unconditional"):
        network(images(), LABELS, torch.tensor([0, 1]))


def test_a_network_with_classes_has_one_that_means_none(saved) -> None:
    original, config, tensors = saved(num_class_embeds=4)
    network = loaded(config, tensors).double()
    found = NullClass(DiscreteVP(network), 3).eps(images(), LABELS + 1, torch.tensor([2, NO_CLASS]))
    expected = original.double()(images(), LABELS, class_labels=torch.tensor([2, 3])).sample
    torch.testing.assert_close(found, expected)
    with pytest.raises(UserError, match="class-conditional"):
        network(images(), LABELS)


def test_a_learned_variance_can_be_left_out(saved) -> None:
    original, config, tensors = saved(out_channels=6)
    denoiser = DiscreteVP(WithoutVariance(loaded(config, tensors).double()))
    expected = original.double()(images(), LABELS).sample[:, :3]
    torch.testing.assert_close(denoiser.eps(images(), LABELS + 1), expected)


def test_the_network_is_twice_differentiable(saved) -> None:
    network = loaded(*saved()[1:]).double()
    assert_twice_differentiable(lambda x: network(x, LABELS).square().sum(), images())


def test_a_copy_has_weights_of_its_own(saved) -> None:
    network = loaded(*saved()[1:]).double()
    before, twin = network(images(), LABELS), copy.deepcopy(network)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert twin(images(), LABELS).abs().max() == 0
    assert torch.equal(network(images(), LABELS), before)
