"""A network evaluated in a cheaper number format, whose gradient does not underflow.

bfloat16 has the range of float32. float16 does not: the gradient of a mean over pixels and timesteps underflows. So the
gradient that enters the network in the backward pass is multiplied by a constant, and the one that leaves it is divided
by the same constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.search import Precision

HALF: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def evaluated(network: Callable[[Tensor], Tensor], x: Tensor, precision: Precision, weight: float = 1.0) -> Tensor:
    """network(x) in the type of x, computed in `precision`; torch keeps norms, sums and softmax in float32.

    Args:
        network: differentiable in x; it is called once.
        x: images, (M, C, H, W).
        weight: about the inverse of the gradient at the network's output: the number of terms that a loss averages.
    """
    if precision not in HALF:  # TensorFloat-32 is a setting of the process, not of a tensor
        return network(x)
    scale = 2.0 ** round(math.log2(weight)) if precision == "fp16" else 1.0
    with torch.autocast(x.device.type, HALF[precision]):
        output = network(_Scaled.apply(x, 1 / scale))
    return _Scaled.apply(output.to(x.dtype), scale)


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant; so is every further derivative, which is linear."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None
