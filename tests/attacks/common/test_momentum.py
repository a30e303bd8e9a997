from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.common.momentum import normalised


@given(
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_gradients_of_any_size_have_the_same_weight_and_keep_their_direction(
    exponent: int, seed: int, dtype: torch.dtype
) -> None:
    grad = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 10.0**exponent
    found = normalised(grad)
    assert torch.allclose(found.abs().flatten(1).mean(1), torch.ones(3, dtype=dtype))
    assert torch.allclose(
        torch.cosine_similarity(found.flatten(1), (grad / grad.abs().max()).flatten(1)), found.new_ones(3)
    )


def test_a_gradient_of_zero_stays_zero_and_leaves_the_others_alone() -> None:
    grad = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), -5.0)])
    assert torch.equal(normalised(grad), torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), -1.0)]))
