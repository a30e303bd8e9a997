"""Derivatives times weights, without what `torch.autograd.grad` does where it is given the weights.

There it checks their shapes by way of SymPy, and imports it for that: two seconds in each process that starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pull_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor, ...]:
    """sum_i <weights[i], d outputs[i] / d inputs[j]> for each j, to the bit what `torch.autograd.grad` gives.

    Args:
        outputs: tensors with a graph; weights: as many, of the same shapes.
        create_graph, retain_graph, allow_unused, materialize_grads: as of `torch.autograd.grad`.

    Raises:
        ValueError: a weight has another shape than its output.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> pull_back([x**2], [x], [torch.tensor([1.0, 10.0])])
        (tensor([ 2., 40.]),)
    """
    if not outputs:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    for output, weight in zip(outputs, weights, strict=True):
        if output.shape != weight.shape:
            raise ValueError(f"an output is {tuple(output.shape)}, and its weights are {tuple(weight.shape)}")
    with torch.enable_grad():
        products = [(output * weight).sum() for output, weight in zip(outputs, weights, strict=True)]
        total = products[0] if len(products) == 1 else torch.stack(products).sum()
    return torch.autograd.grad(
        total,
        inputs,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=allow_unused,
        materialize_grads=materialize_grads,
    )
