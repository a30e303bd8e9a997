"""Tensors come back from bytes as they were, strides included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.journal.tensors import Unsuitable, decode, digest_of, encode

NUMBERS = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "tensor",
    [
        NUMBERS,
        NUMBERS.permute(2, 0, 1),
        NUMBERS[:, :, 1],
        NUMBERS[:, :0],
        torch.tensor(float("nan")),
        torch.tensor([torch.inf, -0.0]).double(),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last).bfloat16(),
        torch.arange(5),
    ],
)
def test_values_types_and_strides_come_back(tensor: Tensor) -> None:
    facts, (nothing, back) = decode(encode({"a": True}, [None, tensor]))
    assert facts == {"a": True} and nothing is None and back is not None
    assert (back.dtype, back.shape, back.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    raw, expected = (each.contiguous().reshape(-1).view(torch.uint8) for each in (back, tensor))
    assert raw.equal(expected)


@pytest.mark.parametrize("tensor", [NUMBERS[:1].expand(5, 3, 4), torch.zeros(3, dtype=torch.complex64)])
def test_what_would_not_come_back_is_refused(tensor: Tensor) -> None:
    with pytest.raises(Unsuitable):
        encode({}, [tensor])


@given(st.binary(max_size=80), st.integers(0, 200))
def test_other_bytes_raise_nothing_but_value_error(data: bytes, place: int) -> None:
    whole = encode({}, [NUMBERS])
    for wrong in (data, whole[:place] + data + whole[place + len(data) :]):
        try:
            _, tensors = decode(wrong)
        except ValueError:
            continue
        assert sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None) < 100_000


def test_a_digest_tells_values_shapes_strides_types_and_facts_apart() -> None:
    different = [
        digest_of(facts, tensors)
        for facts, tensors in [
            ([], [NUMBERS]),
            ([1], [NUMBERS]),
            ([], [NUMBERS, None]),
            ([], [NUMBERS + 1e-6]),
            ([], [NUMBERS.view(24)]),
            ([], [NUMBERS.permute(0, 2, 1).contiguous().permute(0, 2, 1)]),
            ([], [NUMBERS.long()]),
        ]
    ]
    assert len(set(different)) == len(different)
    assert digest_of([], [NUMBERS.clone()]) == different[0]
