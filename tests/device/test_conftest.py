"""The device that refuses to be waited for does refuse, and allows what a GPU does without a wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.process import waits

WAITING: dict[str, Callable[[Tensor], object]] = {
    "to the host": lambda x: x.cpu(),
    "to the device": lambda x: torch.arange(3).to(x.device),
    "a tensor of a list": lambda x: x.new_tensor([1.0, 2.0]),
    "a number": lambda x: x.sum().item(),
    "a list": lambda x: x.tolist(),
    "a condition": lambda x: bool((x > 0).any()),
    "where": lambda x: (x > 0).nonzero(),
    "a mask": lambda x: x[x > 0],
    "a mask written": lambda x: x.clone().masked_select(x > 0),
    "a list as an index": lambda x: x[[0, 1]],
    "an index on the host": lambda x: x[torch.tensor([0, 1])],
    "what differs": lambda x: x.unique(),
    "a sum over both": lambda x: x + torch.rand(3),
}


@pytest.mark.parametrize("how", WAITING)
def test_what_waits_is_refused(how: str, on_device: Callable[[], Any]) -> None:
    x = torch.rand(3, device="meta")
    with pytest.raises(Exception, match=r"between cpu and meta|needs a value|meta tensor"), on_device():
        WAITING[how](x)


def test_what_is_made_on_the_device_is_allowed(on_device: Callable[[], Any]) -> None:
    x = torch.rand(3, requires_grad=True, device="meta")
    with on_device() as waited:
        loss = (x[:2] * 2 + torch.arange(2, device=x.device) + torch.tensor(1.0)).sum()
        assert torch.autograd.grad(loss, x)[0].shape == (3,)
        assert torch.tensor([1, 2]).sum().item() == 3  # the host may ask itself
    assert waited == []


def test_waits_on_purpose_are_listed_and_those_on_the_host_are_none(on_device: Callable[[], Any]) -> None:
    mask = torch.tensor([True, False, True])
    with on_device() as waited:
        assert waits.rows(mask).tolist() == [0, 2] and waits.some(mask) and waits.distinct(mask.int()) == [0, 1]
        assert waited == []
        assert waits.rows(torch.empty(3, device="meta")).shape == (3,)
    assert waited == ["places"]
