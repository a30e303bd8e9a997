"""Want of memory, as PyTorch and Python tell it."""

from __future__ import annotations

import torch


def out_of_memory(error: Exception) -> bool:
    """Whether something failed for want of memory, on a GPU or in the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
