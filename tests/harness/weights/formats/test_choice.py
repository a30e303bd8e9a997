"""Of several sets of weights in a file none is taken without a word."""

from __future__ import annotations

import pytest
import torch

from harness.errors import UserError
from harness.weights import formats

LAST = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
AVERAGED = {name: value + 1 for name, value in LAST.items()}
OTHER = {"generator.weight": torch.ones(7)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}


def wrapped(tensors, prefix="module."):
    return {prefix + name: value for name, value in tensors.items()}


def read(content, path, key=None):
    torch.save(content, path / "file")
    return formats.read(path / "file", key=key)


QUESTIONS = {
    "ema": ({"model": LAST, "ema": AVERAGED, "step": 1}, "ema"),
    "timm": ({"state_dict": LAST, "state_dict_ema": AVERAGED}, "state_dict_ema"),
    "two usual names": ({"model": LAST, "net": AVERAGED}, "net"),
    "deeper": ({"model": LAST, "ema": {"decay": 0.99, "module": AVERAGED}}, "ema.module"),
    "shadow": (
        {"state_dict": LAST, "ema": {"shadow": AVERAGED, "num_updates": 3}, "optimizer": OPTIMIZER},
        "ema.shadow",
    ),
    "another wrapper": ({"state_dict": LAST, "teacher": wrapped(AVERAGED)}, "teacher"),
    "unusual names": ({"student": LAST, "teacher": AVERAGED}, "teacher"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_two_sets_of_weights_are_a_question_that_a_key_answers(name, tmp_path):
    content, key = QUESTIONS[name]
    with pytest.raises(UserError, match=rf"2 sets of weights: .*'{key}' \(2 tensors"):
        read(content, tmp_path)
    found = read(content, tmp_path, key)
    assert all(torch.equal(found.tensors[n], AVERAGED[n]) for n in AVERAGED)
    assert f"taken from '{key}', as asked" in found.notes


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": LAST, "optimizer": OPTIMIZER, "epoch": 3},
        {"epoch": 3, "state_dict": LAST, "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "loops": {"x": {"y": 1}}},
        {"model": LAST, "discriminator": OTHER},
        {"params": LAST, "optimizer": OPTIMIZER},
        {"checkpoint": {"model": LAST, "epoch": 1}},
        LAST,
    ],
    ids=["script", "lightning", "another network", "an unusual name", "deeper", "bare"],
)
def test_one_set_of_weights_is_taken(content, tmp_path):
    assert read(content, tmp_path).tensors.keys() == LAST.keys()


@pytest.mark.parametrize(
    "shadow", [{"shadow_params": [torch.ones(2, 3), torch.ones(2)]}, [torch.ones(2, 3), torch.ones(2)]]
)
def test_averages_without_names_are_a_question_too(shadow, tmp_path):
    content = {"state_dict": LAST, "ema": shadow}
    with pytest.raises(UserError, match="averages without names"):
        read(content, tmp_path)
    assert torch.equal(read(content, tmp_path, "state_dict").tensors["a.bias"], LAST["a.bias"])


def test_a_key_may_be_a_prefix_of_the_names(tmp_path):
    found = read(wrapped(LAST, "online_model.") | wrapped(AVERAGED, "ema_model."), tmp_path, "ema_model")
    assert torch.equal(found.tensors["a.bias"], AVERAGED["a.bias"]) and found.tensors.keys() == AVERAGED.keys()
    assert "2 left aside" in found.notes[0]


def test_a_key_that_is_not_there_is_answered_by_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"no weights called 'emma'\. It has 'ema', 'model'"):
        read({"model": LAST, "ema": AVERAGED}, tmp_path, "emma")


def test_a_key_chooses_among_the_two_sets_of_a_score_sde_state(tmp_path):
    content = {"model": LAST, "ema": {"shadow_params": list(AVERAGED.values())}, "step": 1}
    for key, expected in ((None, AVERAGED), ("ema", AVERAGED), ("model", LAST)):
        found = read(content, tmp_path, key).tensors
        assert all(torch.equal(found[name], expected[name]) for name in expected)
