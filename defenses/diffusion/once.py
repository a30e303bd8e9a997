"""Backward passes that compute a gradient by hand, which has no derivative of its own."""

from __future__ import annotations

import torch


def refuse_second_derivative(what: str) -> None:
    """Stops a backward pass that is itself differentiated, as `create_graph=True` asks for.

    The gradient would be treated as a constant, and its derivative would silently be zero.

    Args:
        what: what was differentiated, the subject of the message.

    Raises:
        RuntimeError: a graph of the backward pass is wanted.

    Example:
        >>> with torch.no_grad():
        ...     refuse_second_derivative("a sum")
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{what} can be differentiated once only")
