from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dctn

from harness.quantity import Quantity
from harness.randomness import uniform
from harness.threats.jpeg import CHROMA_CORNER, JPEG, LUMA, blocks, encoded, tables


def test_coefficients_are_those_of_scipys_cosine_transform() -> None:
    x = uniform(torch.arange(2), (1, 16, 8))
    ours = encoded(x)[:, 0, 1, 0].numpy()
    theirs = dctn(255 * x[:, 0, 8:].double().numpy() - 128, axes=(1, 2), norm="ortho")
    assert np.allclose(ours, theirs, atol=1e-9)


def test_one_step_of_the_lowest_coefficient_lifts_a_block_by_an_eighth_of_its_size() -> None:
    x, z = torch.full((1, 1, 8, 16), 0.5), torch.zeros(1, 1, 8, 16)
    z[0, 0, 0, 8] = 1
    lifted = JPEG(Quantity(1)).render(x, z) - x
    assert torch.allclose(lifted[..., 8:], torch.tensor(16 / 8 / 255), atol=1e-6)
    assert torch.allclose(lifted[..., :8], torch.tensor(0.0), atol=1e-6)


def test_colour_changes_leave_the_brightness() -> None:
    x, z = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
    z[0, 1, 0, 0] = 3
    change = JPEG(Quantity(3)).render(x, z)[0, :, 0, 0] - 0.5
    assert abs(float(change @ torch.tensor([0.299, 0.587, 0.114]))) < 1e-5
    assert change[2] > 0.04


def test_the_tables_are_those_of_the_standard_and_scale_as_libjpegs_do() -> None:
    at_50, at_90, at_10 = (tables(3, torch.device("cpu"), quality)[:, 0, 0] for quality in (50, 90, 10))
    assert at_50[0].tolist() == [list(map(float, row)) for row in LUMA]
    assert at_50[2, :4, :4].tolist() == [list(map(float, row)) for row in CHROMA_CORNER]
    assert at_90[0, 0, :3].tolist() == [3, 2, 2] and at_10[0, 0, :3].tolist() == [80, 55, 50]


def test_blocks_are_cut_row_by_row() -> None:
    image = torch.arange(16 * 24).view(1, 1, 16, 24)
    assert torch.equal(blocks(image)[0, 0, 1, 2], image[0, 0, 8:, 16:])
