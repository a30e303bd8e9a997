"""Gradient steps along low frequencies, within the ball of the threat model.

    f_{i+1}  =  f_i + a_i L(m_{i+1}) / ||L(m_{i+1})||     L: the low frequencies, `harness.threats.frequencies`
    x_{i+1}  =  project(x + f_{i+1})                     m: the gradients, with momentum; the norm that of the ball

The field f has no frequency but the lowest K along each side. Projection clips it, as it would any other perturbation,
so that the image lies in the same ball as PGD's. Purification takes away high frequencies first: what PGD finds there
is lost, and low frequencies pass (networks: Guo et al., 2019, arXiv:1809.08758; purification by diffusion: Kassis et
al., 2025, arXiv:2411.16598, whose filters are learned and whose budget is a perceptual distance).
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.gradient_attack import column
from harness.threat import Pixels
from harness.threats.frequencies import low_pass


def unit_low(gradient: Tensor, lowest: int, threat: Pixels) -> Tensor:
    """The low frequencies of a gradient (N, C, H, W) at a length of 1 in the norm of the threat; zero where zero."""
    largest = column(gradient.abs().flatten(1).amax(1), gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
    low = low_pass(gradient / largest, lowest)
    length = threat.size(torch.zeros_like(low), low)
    return low / column(length, low).clamp(min=1e-12)
