"""Prefixes of tensor names, and what is said of a checkpoint that does not fit."""

from __future__ import annotations

import re

import pytest
import torch

from harness.formats import names


def tensors(*keys):
    return {key: torch.zeros(1) for key in keys}


def test_the_prefix_of_parallel_training_goes_if_all_names_have_it():
    found, notes = names.unwrapped(tensors("module.a", "module.b"))
    assert list(found) == ["a", "b"]
    assert "'module.'" in notes[0]
    mixed = tensors("module.a", "b")
    assert names.unwrapped(mixed) == (mixed, [])


def test_a_prefix_that_belongs_to_the_network_stays():
    edm = tensors("model.a", "model.b")
    assert names.unwrapped(edm) == (edm, [])
    assert names.aligned(edm, ["model.a", "model.b"]) == (edm, [])


@pytest.mark.parametrize(
    ("found", "prefix"),
    [
        (("model.a", "model.b"), "model."),
        (("net.0.a", "net.0.b"), "net.0."),
        (("denoise_fn.a", "denoise_fn.b"), "denoise_fn."),
    ],
)
def test_a_wrapper_is_taken_off_where_the_network_has_other_names(found, prefix):
    aligned, notes = names.aligned(tensors(*found), ["a", "b", "c"])
    assert list(aligned) == ["a", "b"]
    assert notes == [f"prefix '{prefix}' taken off the names"]


def test_a_wrapper_stays_where_taking_it_off_makes_nothing_fit():
    found = tensors("model.a", "model.b")
    assert names.aligned(found, ["x", "y"]) == (found, [])
    assert names.aligned({}, ["x"]) == ({}, [])


NETWORK = {"conv.weight": (8, 3), "conv.bias": (8,), "head.weight": (10, 8)}


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ({f"encoder.{name}": shape for name, shape in NETWORK.items()}, "prefix"),
        ({"patch.weight": (1,)}, "another network"),
        (NETWORK | {"label_embed.weight": (10, 4)}, "class-conditional variant"),
        (NETWORK | {"block.weight": (1,)}, "larger"),
        ({"conv.weight": (8, 3)}, "smaller"),
        (NETWORK | {"ema.decay": ()}, r"averaged \(EMA\)"),
        ({name: tuple(2 * n for n in shape) for name, shape in NETWORK.items()}, "width"),
    ],
)
def test_the_likely_cause_of_a_mismatch_is_named(found, cause):
    assert re.search(cause, names.likely_cause(found, NETWORK))


def test_an_unconditional_checkpoint_for_a_conditional_network_is_named():
    assert "unconditional" in names.likely_cause(NETWORK, NETWORK | {"map_label.weight": (4, 10)})
