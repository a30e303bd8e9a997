"""Purifiers on a tiny network in double precision, and images with pixels at 0 and at 1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.networks.ncsnpp import NCSNpp
from defenses.purification.purifier import Purifier
from defenses.undefended import Undefended
from harness.weights import Checkpoint
from helpers.originals import fill, rule_image

NETWORK = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[])


@pytest.fixture
def make(tmp_path) -> Callable[..., Purifier]:
    """make(cls, **options): a purifier on a tiny network, before the digits' classifier."""
    save_file(fill(NCSNpp(**NETWORK), exempt=["sigmas"]).state_dict(), tmp_path / "tiny.safetensors")
    weights, classifier = Checkpoint.find(str(tmp_path / "tiny.safetensors")), Undefended("digits-cnn")

    def build(cls: type[Purifier], **options) -> Purifier:
        given = {"classifier": classifier, "network": {"type": "ncsnpp", **NETWORK}, **options}
        return cls(weights, **given).double()

    return build


@pytest.fixture
def x() -> Tensor:
    return (1.3 * rule_image((2, 1, 8, 8)).double() - 0.15).clamp(0, 1)


@pytest.fixture
def seeds() -> Tensor:
    return torch.tensor([5, 1 << 61])
