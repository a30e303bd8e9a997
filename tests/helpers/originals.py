"""The rule that fills networks, images and noises, so that golden numbers need no stored weights; and those numbers.

With v = sin(0.37 i + 1.3 j + 0.1) for element i of the j-th tensor of a state, a norm's scale is 1 + 0.05 v, a bias
0.05 v, and any other tensor v sqrt(2 / fan_in).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def golden(name: str) -> Any:
    """The content of tests/golden/<name>.json."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def fill(module: nn.Module, exempt: Collection[str] = ()) -> nn.Module:
    """Writes the rule's values (rounded to float32) into the state of a module, in place.

    `exempt` names keys that keep their value but count in the enumeration. Returns the module in evaluation mode.
    """
    state = module.state_dict()
    values = {
        name: state[name] if name in exempt else _filled(name, state[name], j).to(torch.float32)
        for j, name in enumerate(sorted(state))
    }
    module.load_state_dict(values)
    return module.eval()


def rule_image(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Values in [0, 1], rounded to float32 and then given the type."""
    return (0.5 + 0.45 * _wave(shape, 0.11, 0.2)).to(torch.float32).to(dtype)


def rule_noise(shape: tuple[int, ...], k: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The k-th noise, rounded to float32 and then given the type."""
    return (math.sqrt(2) * _wave(shape, 0.7, 2.1 * k, 0.3)).to(torch.float32).to(dtype)


def _wave(shape: tuple[int, ...], frequency: float, *phases: float) -> Tensor:
    """sin(frequency * i + phases), added from left to right: another order rounds to other float32 values."""
    angle = frequency * torch.arange(math.prod(shape), dtype=torch.float64)
    for phase in phases:
        angle = angle + phase
    return angle.sin().reshape(shape)


def _filled(name: str, tensor: Tensor, position: int) -> Tensor:
    wave = _wave(tuple(tensor.shape), 0.37, 1.3 * position, 0.1)
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    if name.endswith("running_var"):
        return 1 + 0.05 * wave.abs()
    if name.endswith("running_mean"):
        return 0.05 * wave
    if tensor.ndim == 1 and name.endswith("weight"):
        return 1 + 0.05 * wave
    if tensor.ndim <= 1:
        return 0.05 * wave
    fan_in = tensor.numel() / tensor.shape[0]
    return wave * math.sqrt(2 / fan_in)


def assert_summary(actual: Tensor, summary: dict[str, Any], tolerance: float) -> None:
    """Compares shape, moments and sampled values, relative to the summary's root mean square."""
    assert list(actual.shape) == summary["shape"]
    flat = actual.detach().double().flatten()
    rms = summary["l2"] / math.sqrt(flat.numel())
    moments = torch.stack([flat.mean(), flat.std(correction=0), flat.square().mean().sqrt()])
    expected = torch.tensor([summary["mean"], summary["std"], rms], dtype=torch.float64)
    first, at = (torch.tensor(summary[key], dtype=torch.float64) for key in ("first16", "at_idx"))
    close = dict(rtol=0.0, atol=tolerance * rms)
    torch.testing.assert_close(moments, expected, **close)
    torch.testing.assert_close(flat[: len(first)], first, **close)
    torch.testing.assert_close(flat[summary["idx"]], at, **close)


def assert_agrees(output: Tensor, numbers: dict[str, Any], name: str) -> None:
    """Compares an output with its measured values, or with the summary of them, in the precision of the output."""
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


def assert_listing(network: nn.Module, listing: list[list[Any]], parameters: int) -> None:
    """Compares names, shapes, dtypes and order of a state dict, and the number of parameters."""
    found = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in network.state_dict().items()]
    assert found == listing
    assert sum(p.numel() for p in network.parameters()) == parameters


def assert_twice_differentiable(scalar: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compares a Hessian-vector product of a scalar function, in float64, with differences of its gradient."""
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
