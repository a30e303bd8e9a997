"""Perceptual adversarial training (Laidlaw, Singla & Feizi 2021, arXiv:2006.12655): the defense is in the weights."""

from __future__ import annotations

from torch import Tensor

from defenses.undefended import Undefended


class PAT(Undefended):
    """A classifier trained on the worst images within a perceptual (LPIPS) distance.

    Like the published model it clamps images to [0, 1], which changes no valid image, and normalises them.

    Args:
        weights: its checkpoint, or in Python also the name or path of one.
        network: its architecture, `{type: pat_resnet, ...}`; left out, the one on the checkpoint's card.
        mean, std: normalisation by channel; both left out, the network's own.

    Raises:
        UserError: the weights do not fit the network, or a standard deviation is not positive.
    """

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x.clamp(0, 1))
