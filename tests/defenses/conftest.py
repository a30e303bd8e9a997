"""The rule that fills networks, images and noises, so that golden numbers need no stored weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"


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


@pytest.fixture(scope="session")
def fill() -> Callable[..., nn.Module]:
    """fill(module, exempt): writes the rule's values (rounded to float32) into the state of a module, in place.

    `exempt` names keys that keep their value but count in the enumeration. Returns the module in evaluation mode.
    """

    def apply(module: nn.Module, exempt: Collection[str] = ()) -> nn.Module:
        state = module.state_dict()
        values = {
            name: state[name] if name in exempt else _filled(name, state[name], j).to(torch.float32)
            for j, name in enumerate(sorted(state))
        }
        module.load_state_dict(values)
        return module.eval()

    return apply


@pytest.fixture(scope="session")
def rule_image() -> Callable[..., Tensor]:
    """rule_image(shape, dtype): values in [0, 1], rounded to float32 and then given the type."""
    return lambda shape, dtype=torch.float32: (0.5 + 0.45 * _wave(shape, 0.11, 0.2)).to(torch.float32).to(dtype)


@pytest.fixture(scope="session")
def rule_noise() -> Callable[..., Tensor]:
    """rule_noise(shape, k, dtype): the k-th noise, rounded to float32 and then given the type."""
    return lambda shape, k=0, dtype=torch.float32: (
        (math.sqrt(2) * _wave(shape, 0.7, 2.1 * k, 0.3)).to(torch.float32).to(dtype)
    )


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """golden(name): the content of tests/golden/<name>.json."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def assert_summary() -> Callable[..., None]:
    """assert_summary(actual, summary, tolerance): shape, moments and sampled values, relative to the summary's RMS."""

    def check(actual: Tensor, summary: dict[str, Any], tolerance: float) -> None:
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

    return check
