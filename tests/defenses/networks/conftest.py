"""What tests of published architectures share: both precisions, and comparisons with the originals' numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def image(rule_image: Callable[..., Tensor], dtype: torch.dtype) -> Callable[[Sequence[int]], Tensor]:
    """Images in [0, 1] of a given shape, in the precision of the test."""
    return lambda shape: rule_image(tuple(shape), dtype)


@pytest.fixture
def noise(rule_noise: Callable[..., Tensor], dtype: torch.dtype) -> Callable[[Sequence[int], int], Tensor]:
    """The k-th noise of a given shape, in the precision of the test."""
    return lambda shape, k: rule_noise(tuple(shape), k, dtype)


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
