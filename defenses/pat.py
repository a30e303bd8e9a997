"""Perceptual adversarial training (Laidlaw, Singla & Feizi 2021, arXiv:2006.12655): the defense is in the weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from defenses.networks.pat_resnet import PATResNet
from defenses.undefended import Undefended
from harness.weights import Checkpoint


class PAT(Undefended):
    """A classifier trained on the worst images within a perceptual (LPIPS) distance.

    Like the published model it clamps images to [0, 1], which changes none that belongs there, and normalises them.

    Args:
        weights: its checkpoint, or in Python also the name or path of one.
        network: its architecture, `{type: pat_resnet, ...}`; left out, the one on the checkpoint's card.
        mean, std: normalisation by channel; left out, the published one, of CIFAR-10.

    Raises:
        UserError: the weights do not fit the network, or a standard deviation is not positive.
    """

    def __init__(
        self,
        weights: Checkpoint,
        network: dict[str, Any] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        published = PATResNet.preprocessing
        super().__init__(weights, network, mean or list(published.mean), std or list(published.std))

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x.clamp(0, 1))
