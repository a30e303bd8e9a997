"""How a difference, a flow and an image are drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.reporting.page.pictures import arrows, difference, gain_of, png
from harness.threat import warp
from helpers.examples import examples
from helpers.page import decoded

pytestmark = pytest.mark.slow


@settings(max_examples=examples(100), deadline=None)
@given(st.floats(1e-3, 1.0))
def test_the_gain_is_round_and_keeps_the_largest_difference_on_the_scale(largest: float) -> None:
    gain = gain_of(largest)
    assert gain == 1 or gain * largest <= 0.5 * (1 + 1e-5)
    assert int(str(gain).rstrip("0")) in (1, 2, 5)
    assert gain == 1 or 2.6 * gain * largest > 0.5 or gain >= 500


def test_no_difference_is_grey_and_colour_channels_keep_their_places() -> None:
    x = torch.full((3, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[0] += 0.1
    shown = decoded(png(difference(x, x_adv, gain=5)))
    assert shown.shape == (2, 2, 3) and (shown == [255, 128, 128]).all()


def test_an_arrow_leads_from_where_a_pixel_was_taken() -> None:
    flow = torch.zeros(4, 4, 2)
    flow[1, 2, 0] = 2 / 4  # one pixel to the right: half the width of 4 pixels is 2
    x, y, dx, dy = arrows(flow)[1 * 4 + 2]
    assert (x, y, dx, dy) == (2.5, 1.5, 1.0, 0.0)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 3] = 1
    assert warp(image, flow[None])[0, 0, 1, 2] == 1


def test_large_flows_are_averaged_over_blocks() -> None:
    flow = torch.rand(32, 32, 2, generator=torch.Generator().manual_seed(0))
    found = arrows(flow)
    assert len(found) == 256 and found[0][:2] == [1.0, 1.0]
    assert found[0][2] == pytest.approx(float(flow[:2, :2, 0].mean() * 16), abs=0.01)
