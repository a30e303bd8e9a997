"""Whether a device computes in half precision itself, or emulates it.

A CPU without instructions for it (x86 before AVX-512, for instance) still takes bfloat16 and float16, and converts
every operand: a training step of an NCSN++ network took five times as long as in float32 there. What is computed is
right, so nothing is refused; whoever asked for half precision to save time is told.
"""

from __future__ import annotations

import torch

_SUPPORTED = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}


def is_emulated(precision: str, device: torch.device) -> bool:
    """Whether `precision`, such as "bf16", "fp16" or "float32", costs time on this device instead of saving it."""
    if device.type != "cpu" or precision not in _SUPPORTED:
        return False
    supported = getattr(torch.ops.mkldnn, _SUPPORTED[precision], None)
    return supported is not None and not supported()


def advice(precision: str) -> str:
    """What to say about it."""
    return f"this CPU emulates {precision}, several times slower than float32; write `precision: float32`"
