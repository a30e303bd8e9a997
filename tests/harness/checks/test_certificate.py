"""`harness check` on certificates: sound ones pass, and each planted fault is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.certificates.smoothing import Smoothing
from harness import datasets
from harness.checks.certificate import check_certificate
from harness.target import Target


class FewDraws(Smoothing):
    def counts(self, target: Target, x: Tensor) -> Tensor:
        return (super().counts(target, x) // 2) * 2


class LittleNoise(Smoothing):
    """As if sigma were half as large: the likelier class comes more often."""

    def counts(self, target: Target, x: Tensor) -> Tensor:
        defense = target.defense
        near = defense.offset + 2 * (x.flatten(1) @ defense.weight - defense.offset)  # type: ignore[operator]
        moved = (
            x
            + ((near - x.flatten(1) @ defense.weight) / defense.weight.square().sum())[  # type: ignore[operator]
                :, None, None, None
            ]
            * defense.weight.view(x.shape[1:])
        )  # type: ignore[operator]
        return super().counts(target, moved)


class OfTheBatch(Smoothing):
    def counts(self, target: Target, x: Tensor) -> Tensor:
        target.seeds = torch.arange(len(x))  # of places in the batch, and not of images
        return super().counts(target, x)


class WithoutSelection(Smoothing):
    def counts(self, target: Target, x: Tensor) -> Tensor:
        return super().counts(target, x)[:, 1]


def found(certificate: Smoothing) -> dict[str, str]:
    data = datasets.load("digits")
    return {each.name: each.status for each in check_certificate(certificate, data.images[:8], data.labels[:8])}


def test_randomized_smoothing_passes_every_check() -> None:
    statuses = found(Smoothing(20, 300))
    assert len(statuses) == 4 and set(statuses.values()) == {"passed"}


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (FewDraws(21, 301), "as many draws as it says"),
        (LittleNoise(100, 1000), "as much noise as it says"),
        (OfTheBatch(20, 300), "reproducible, image by image"),
        (WithoutSelection(20, 300), "runs"),
    ],
)
def test_a_planted_fault_is_found(certificate: Smoothing, name: str) -> None:
    torch.manual_seed(0)
    assert found(certificate)[name] == "failed"
