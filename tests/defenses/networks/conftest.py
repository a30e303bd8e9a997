"""Published architectures at rule-made weights: tests compare them with numbers measured on the originals.

The rule: with v = sin(0.37 i + 1.3 j + 0.1) for element i of the j-th key in sorted order, a running variance is
1 + 0.05 |v|, a running mean 0.05 v, a norm's scale 1 + 0.05 v, a bias 0.05 v, and any other tensor v sqrt(2 / fan_in).
Everything is rounded to float32 first, so that both precisions see the same numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="session")
def measured() -> Callable[[str], dict[str, Any]]:
    """The numbers of an original, by the name of their file."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def by_rule() -> Callable[..., nn.Module]:
    """A network in evaluation mode, filled by the rule except for the tensors to `keep`."""

    def fill(network: nn.Module, keep: Collection[str] = ()) -> nn.Module:
        state = network.state_dict()
        for j, key in enumerate(sorted(state)):
            if key not in keep and state[key].is_floating_point():
                state[key].copy_(_rule_value(key, state[key].shape, j))
        return network.eval()

    return fill


def _rule_value(key: str, shape: torch.Size, j: int) -> Tensor:
    v = torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + 1.3 * j + 0.1).reshape(shape)
    if key.endswith("running_var"):
        return 1 + 0.05 * v.abs()
    if len(shape) == 1 and key.endswith("weight"):
        return 1 + 0.05 * v
    return 0.05 * v if len(shape) <= 1 else v * math.sqrt(2 * shape[0] / math.prod(shape))


@pytest.fixture
def image(dtype: torch.dtype) -> Callable[[Sequence[int]], Tensor]:
    """Images in [0, 1] of a given shape."""

    def rule(shape: Sequence[int]) -> Tensor:
        i = torch.arange(math.prod(shape), dtype=torch.float64)
        return (0.5 + 0.45 * torch.sin(0.11 * i + 0.2)).reshape(tuple(shape)).float().to(dtype)

    return rule


@pytest.fixture
def noise(dtype: torch.dtype) -> Callable[[Sequence[int], int], Tensor]:
    """The k-th noise of a given shape."""

    def rule(shape: Sequence[int], k: int) -> Tensor:
        i = torch.arange(math.prod(shape), dtype=torch.float64)
        return (math.sqrt(2) * torch.sin(0.7 * i + 2.1 * k + 0.3)).reshape(tuple(shape)).float().to(dtype)

    return rule


@pytest.fixture(scope="session")
def assert_agrees() -> Callable[[Tensor, dict[str, Any], str], None]:
    """Compares an output with its measured values, or with the summary of them, in the precision of the output."""

    def check(output: Tensor, numbers: dict[str, Any], name: str) -> None:
        recorded = numbers["outputs" if output.dtype == torch.float32 else "outputs_f64"][name]
        found = output.detach().double()
        if isinstance(recorded, dict):
            assert list(found.shape) == recorded["shape"]
            pairs = [(found.flatten()[recorded["idx"]], recorded["at_idx"]), (found.norm(), recorded["l2"])]
            pairs.append((found.std(correction=0), recorded["std"]))
        else:
            pairs = [(found, recorded)]
        for ours, value in pairs:
            theirs = torch.tensor(value, dtype=torch.float64).reshape(ours.shape)
            assert (ours - theirs).abs().max() <= TOLERANCE[output.dtype] * theirs.abs().max(), name

    return check


@pytest.fixture(scope="session")
def assert_listing() -> Callable[[nn.Module, list[list[Any]], int], None]:
    """Compares names, shapes, dtypes and order of a state dict, and the number of parameters."""

    def check(network: nn.Module, listing: list[list[Any]], parameters: int) -> None:
        found = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in network.state_dict().items()]
        assert found == listing
        assert sum(p.numel() for p in network.parameters()) == parameters

    return check


@pytest.fixture(scope="session")
def assert_twice_differentiable() -> Callable[[Callable[[Tensor], Tensor], Tensor], None]:
    """Compares a Hessian-vector product of a scalar function, in float64, with differences of its gradient."""

    def check(scalar: Callable[[Tensor], Tensor], x: Tensor) -> None:
        direction = torch.sin(1.7 * torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape)

        def gradient(x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            return torch.autograd.grad(scalar(x), x, create_graph=True)[0]

        x = x.detach().requires_grad_()
        first = torch.autograd.grad(scalar(x), x, create_graph=True)[0]
        product = torch.autograd.grad((first * direction).sum(), x)[0]
        step = 1e-5
        differences = (gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
        assert product.norm() > 0
        assert (product - differences).norm() <= 1e-6 * product.norm()

    return check
