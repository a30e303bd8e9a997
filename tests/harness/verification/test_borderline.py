"""Verification tells rounding from contradiction, vote by vote."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.datasets.batch import Images
from harness.defense import Defense
from harness.predict import predict_votes
from harness.results.record import Record
from harness.verification.replay import ReplayedPredictions, compared, replay_votes


class Edge(Defense):
    """Two classes that differ by one millionth of a third: which one wins depends on the batch, as rounding does."""

    num_classes = 3

    def classify(self, x: Tensor) -> Tensor:
        edge = torch.full((len(x), 1), 1e-6 * (len(x) - 2.5))
        return torch.cat([edge, torch.zeros_like(edge), -torch.ones_like(edge)], 1)


def replay(recorded_batch: int, batch: int, label: int) -> tuple[Record, ReplayedPredictions]:
    images = Images(torch.arange(4), torch.rand(4, 1, 2, 2), torch.full((4,), label))
    defense, seeds = Edge(), torch.arange(4)
    then = predict_votes(defense, images.x, images.y, seeds, votes=1, batch_size=recorded_batch)
    votes, margins = then.votes[:, 0].tolist(), then.margins[:, 0].tolist()
    record = Record(0, label, "robust", votes, votes, margins, margins, 0, 0, 0, None, 0, 0, 0, 0, 0)
    return record, replay_votes(defense, images, seeds, votes=1, batch_size=batch)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_flip_that_rounding_explains_is_borderline(label: int) -> None:
    record, answers = replay(4, 2, label)
    assert record.adv_votes == [0] and answers.votes[:, 0].tolist() == [1]
    assert compared(record, answers, 0).sameness == compared(record, answers, 0, clean=True).sameness == "borderline"
    assert compared(record, replay(4, 4, label)[1], 0).sameness == "equal"


@pytest.mark.parametrize(
    "changes", [{"adv_margins": [0.5]}, {"adv_votes": [2]}, {"adv_votes": [-1]}, {"adv_votes": [9]}]
)
def test_a_flip_that_rounding_does_not_explain_is_a_contradiction(changes: dict[str, Any]) -> None:
    record, answers = replay(4, 2, 0)
    assert compared(dataclasses.replace(record, **changes), answers, 0).sameness == "contradiction"


def test_another_number_of_draws_is_a_contradiction() -> None:
    record, answers = replay(4, 4, 0)
    assert compared(dataclasses.replace(record, adv_votes=[0, 0]), answers, 0).sameness == "contradiction"
