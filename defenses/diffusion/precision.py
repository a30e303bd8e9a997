"""A network evaluated in cheaper numbers, with a gradient that is not lost in them.

bfloat16 has the range of float32. float16 does not: a gradient of a mean over pixels and timesteps underflows. So the
gradient that enters the network from behind is multiplied by a constant, and the one that leaves it divided by it.
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
        network: differentiable in x, and asked once.
        x: images, (M, C, H, W).
        weight: about the inverse of the gradient at the network's end, where a loss is a mean of as many terms.
    """
    if precision not in HALF:  # TensorFloat-32 is a setting of the process, not of a tensor
        return network(x)
    scale = 2.0 ** round(math.log2(weight)) if precision == "fp16" else 1.0
    with torch.autocast(x.device.type, HALF[precision]):
        found = network(_Scaled.apply(x, 1 / scale))
    return _Scaled.apply(found.to(x.dtype), scale)


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant; so is every further derivative, which is linear."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None
