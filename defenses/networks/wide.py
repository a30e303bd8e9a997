"""The plan that all Wide ResNets share (Zagoruyko & Komodakis 2016, arXiv:1605.07146, Table 1).

Depth 6 n + 4 means three stages of n blocks, with 16 w, 32 w and 64 w channels at full, half and quarter resolution.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.errors import UserError

STEM_CHANNELS = 16


class WideStage(NamedTuple):
    """One stage: its first block maps `in_channels` to `out_channels` with `stride`, the others keep the shape."""

    in_channels: int
    out_channels: int
    stride: int
    blocks: int


def wide_stages(depth: int, width: int) -> tuple[WideStage, WideStage, WideStage]:
    """The three stages of WRN-depth-width.

    Raises:
        UserError: depth is not 6 n + 4 for an n >= 1.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise UserError(f"A Wide ResNet of depth {depth} does not exist", remedy="Use 10, 16, 22, 28, … (6 n + 4)")
    first, second, third = (STEM_CHANNELS * width * 2**i for i in range(3))
    return (
        WideStage(STEM_CHANNELS, first, 1, blocks),
        WideStage(first, second, 2, blocks),
        WideStage(second, third, 2, blocks),
    )
