"""Prefixes of tensor names, and what is said of a checkpoint that does not fit."""

from __future__ import annotations

import re

import pytest
import torch

from harness.weights.formats import state_dict_keys


def tensors(*keys):
    return {key: torch.zeros(1) for key in keys}


def test_the_prefix_of_parallel_training_goes_if_all_names_have_it():
    found, notes = state_dict_keys.unwrapped(tensors("module.a", "module.b"))
    assert list(found) == ["a", "b"]
    assert "'module.'" in notes[0]
    mixed = tensors("module.a", "b")
    assert state_dict_keys.unwrapped(mixed) == (mixed, [])


def test_a_prefix_that_belongs_to_the_network_stays():
    edm = tensors("model.a", "model.b")
    assert state_dict_keys.unwrapped(edm) == (edm, [])
    assert state_dict_keys.aligned(edm, ["model.a", "model.b"]) == (edm, [], None)


@pytest.mark.parametrize(
    ("found", "prefix"),
    [
        (("model.a", "model.b"), "model."),
        (("net.0.a", "net.0.b"), "net.0."),
        (("denoise_fn.a", "denoise_fn.b"), "denoise_fn."),
    ],
)
def test_a_wrapper_is_taken_off_where_the_network_has_other_names(found, prefix):
    aligned, notes, normalization = state_dict_keys.aligned(tensors(*found), ["a", "b", "c"])
    assert list(aligned) == ["a", "b"]
    assert notes == [f"prefix '{prefix}' taken off the names"] and normalization is None


def test_a_wrapper_stays_where_taking_it_off_makes_nothing_fit():
    found = tensors("model.a", "model.b")
    assert state_dict_keys.aligned(found, ["x", "y"]) == (found, [], None)
    assert state_dict_keys.aligned({}, ["x"]) == ({}, [], None)


@pytest.mark.parametrize(
    "written",
    [
        "_orig_mod.{}",
        "_orig_mod.module.{}",
        "module._orig_mod.{}",
        "_fsdp_wrapped_module.{}",
        "module._fsdp_wrapped_module._orig_mod.{}",
    ],
)
def test_the_wrappers_of_pytorch_go_alone_and_within_each_other(written):
    found, notes = state_dict_keys.unwrapped(tensors(*(written.format(name) for name in ("a.weight", "b"))))
    assert list(found) == ["a.weight", "b"] and notes


def test_wrappers_of_parts_of_a_network_go_too():
    found, _ = state_dict_keys.unwrapped(
        tensors("layers.0._checkpoint_wrapped_module.w", "layers.1._orig_mod.w", "head")
    )
    assert list(found) == ["layers.0.w", "layers.1.w", "head"]


def test_a_wrapper_stays_where_two_names_would_become_one():
    twice = tensors("a._orig_mod.w", "a.w")
    assert state_dict_keys.unwrapped(twice) == (twice, [])


@pytest.mark.parametrize("around", ["{}", "module.{}", "_orig_mod.{}"])
def test_the_count_of_an_averaged_model_is_no_weight(around):
    state = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 1)).state_dict()
    assert set(state) == {"n_averaged", "module.weight", "module.bias"}
    found, notes = state_dict_keys.unwrapped({around.format(name): value for name, value in state.items()})
    assert set(found) == {"weight", "bias"} and "after 0 updates" in " ".join(notes)


NORM = {"mean": torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), "std": torch.tensor([0.25])}


@pytest.mark.parametrize(("layer", "network"), [("0.", "1."), ("normalize.", "model."), ("", ""), ("0.", "1.module.")])
@pytest.mark.parametrize("called", [("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std")])
def test_a_normalisation_before_the_network_is_told_apart_and_kept(layer, network, called):
    found = {layer + own: NORM[name] for own, name in zip(called, NORM, strict=True)}
    found |= tensors(f"{network}a.weight", f"{network}b")
    aligned = state_dict_keys.aligned(found, ["a.weight", "b"])
    assert list(aligned.tensors) == ["a.weight", "b"]
    assert aligned.normalization is not None and aligned.normalization.agrees((0.4, 0.5, 0.6), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_normalisation_that_is_the_network_s_own_stays(prefix):
    found = {f"{prefix}norm.{name}": value for name, value in NORM.items()} | tensors(f"{prefix}a")
    aligned = state_dict_keys.aligned(found, ["norm.mean", "norm.std", "a"])
    assert list(aligned.tensors) == ["norm.mean", "norm.std", "a"] and aligned.normalization is None


def test_statistics_of_features_are_no_normalisation_of_images():
    found = {"0.mean": torch.zeros(64), "0.std": torch.ones(64)} | tensors("1.a")
    assert state_dict_keys.aligned(found, ["a"]).normalization is None


NETWORK = {"conv.weight": (8, 3), "conv.bias": (8,), "head.weight": (10, 8)}


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ({f"encoder.{name}": shape for name, shape in NETWORK.items()}, "prefix"),
        ({"patch.weight": (1,)}, "another network"),
        (NETWORK | {"label_embed.weight": (10, 4)}, "class-conditional variant"),
        (NETWORK | {"block.weight": (1,)}, "larger"),
        ({"conv.weight": (8, 3)}, "smaller"),
        (NETWORK | {"ema.decay": ()}, r"averaged \(EMA\).*#key="),
        (NETWORK | {"conv.lora_A.weight": (4, 3)}, "merge_and_unload"),
        ({name: tuple(2 * n for n in shape) for name, shape in NETWORK.items()}, "width"),
    ],
)
def test_the_likely_cause_of_a_mismatch_is_named(found, cause):
    assert re.search(cause, state_dict_keys.likely_cause(found, NETWORK))


def test_an_unconditional_checkpoint_for_a_conditional_network_is_named():
    assert "unconditional" in state_dict_keys.likely_cause(NETWORK, NETWORK | {"map_label.weight": (4, 10)})
