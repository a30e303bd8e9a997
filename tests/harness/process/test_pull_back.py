"""Derivatives times weights are those of `torch.autograd.grad`, and cost no process that starts the import of SymPy."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.process.pull_back import pull_back


def bent(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two functions of x with derivatives of every sign."""
    return (x.sin() * x.exp()).cumsum(0), x.pow(3).sum(1)


@settings(deadline=None)  # autograd imports SymPy the first time
@given(seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_products_are_those_of_autograd_to_the_bit(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, generator=generator).to(dtype).requires_grad_()
    outputs = bent(x)
    weights = [torch.randn(part.shape, generator=generator).to(dtype) for part in outputs]
    weights[0][0, 0] = 0.0
    expected = torch.autograd.grad(outputs, [x], weights, retain_graph=True)
    assert torch.equal(pull_back(outputs, [x], weights)[0], expected[0])


def test_a_weight_of_zero_keeps_an_infinite_output_out_of_the_product() -> None:
    x = torch.tensor([0.0, 2.0], requires_grad=True)
    (found,) = pull_back([torch.stack([1 / x[0], x[1] ** 2])], [x], [torch.tensor([0.0, 1.0])])
    assert found[1] == 4


def test_gradients_are_found_where_none_are_recorded() -> None:
    x = torch.tensor([3.0], requires_grad=True)
    y = x**2
    with torch.no_grad():
        (found,) = pull_back([y], [x], [torch.tensor([2.0])])
    assert found == 12
    assert not found.requires_grad


def test_products_can_be_differentiated_in_the_inputs_and_in_the_weights() -> None:
    x = torch.tensor([3.0], requires_grad=True)
    w = torch.tensor([2.0], requires_grad=True)
    (once,) = pull_back([x**3], [x], [w], create_graph=True)
    assert torch.autograd.grad(once, [x, w]) == (36, 27)


def test_inputs_that_nothing_depends_on_have_zeros() -> None:
    x, other = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    found = pull_back([x * 2], [x, other], [torch.ones(2)], allow_unused=True, materialize_grads=True)
    assert torch.equal(found[1], torch.zeros(3))
    assert torch.equal(pull_back([], [x], [])[0], torch.zeros(2))


def test_weights_of_another_shape_are_refused() -> None:
    x = torch.ones(2, 1, requires_grad=True)
    with pytest.raises(ValueError, match=r"an output is \(2, 1\), and its weights are \(2,\)"):
        pull_back([x * 2], [x], [torch.ones(2)])


CODE = """
import sys, torch
from harness.process.pull_back import pull_back
x = torch.ones(2, requires_grad=True)
pull_back([x * 2], [x], [x.detach()])
print("sympy" in sys.modules)
"""


@pytest.mark.slow
def test_sympy_is_not_imported() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]
