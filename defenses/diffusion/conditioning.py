"""Denoisers made of denoisers: ways to leave the class out, and classifier-free guidance.

    eps_w(x_t, t, y) = eps(x_t, t) + w (eps(x_t, t, y) - eps(x_t, t))        (Ho and Salimans 2022)

A network that takes `NO_CLASS` as it is needs none of the first three.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NO_CLASS, Denoiser, with_classes
from harness.errors import UserError
from harness.process import waits


class Unconditional(nn.Module):
    """A denoiser whose network knows no classes, such as DiffPure's: rows without a class are all it answers.

    Args:
        denoiser: asked with y = None.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is not None and waits.some(y != NO_CLASS):
            self.with_classes(x_t, t, y)
        return self.denoiser.eps(x_t, t)

    def with_classes(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Raises UserError."""
        raise UserError("classes were given to an unconditional network", remedy="Use a class-conditional one")


class ClassesOnly(nn.Module):
    """A denoiser whose network was never trained without a class: rows without one are refused, not guessed.

    Args:
        denoiser: asked with a class for each row.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None or waits.some(y == NO_CLASS):
            raise UserError(
                "the network was never trained without a class", remedy="Name an unconditional one beside it"
            )
        return self.with_classes(x_t, t, y)

    def with_classes(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """`eps` where every row has a class."""
        return with_classes(self.denoiser, x_t, t, y)


class NullClass(nn.Module):
    """A denoiser whose network has a class of its own that means none.

    Args:
        denoiser: asked with a class for each row.
        null: that class, usually K.
    """

    def __init__(self, denoiser: Denoiser, null: int) -> None:
        super().__init__()
        self.denoiser, self.null = denoiser, null

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        nothing = torch.full((len(x_t),), self.null, device=x_t.device)
        return self.denoiser.eps(x_t, t, nothing if y is None else torch.where(y == NO_CLASS, nothing, y))


class Pair(nn.Module):
    """Two networks, one denoiser. Each row is put to one of them only.

    Args:
        conditional: asked for the rows that have a class.
        unconditional: asked for the others, with y = None.
    """

    def __init__(self, conditional: Denoiser, unconditional: Denoiser) -> None:
        super().__init__()
        self.conditional, self.unconditional = conditional, unconditional

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            return self.unconditional.eps(x_t, t)
        rows, others = _split(y)
        if not len(rows):
            return self.unconditional.eps(x_t, t)
        if not len(others):
            return self.with_classes(x_t, t, y)
        found = self.with_classes(x_t[rows], t[rows], y[rows]), self.unconditional.eps(x_t[others], t[others])
        return torch.cat(found)[torch.cat([rows, others]).argsort()]

    def with_classes(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """`eps` where every row has a class."""
        return with_classes(self.conditional, x_t, t, y)


class Guided(nn.Module):
    """Classifier-free guidance. A row with a class costs two evaluations, another one.

    Args:
        denoiser: conditional and unconditional in one, such as a `Pair`.
        scale: w; 1 is the conditional model. In the paper's notation and RDC's, w is 1 + cfg.
    """

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        super().__init__()
        self.denoiser, self.scale = denoiser, scale

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        unconditional = self.denoiser.eps(x_t, t)
        if y is None:
            return unconditional
        rows, _ = _split(y)
        if not len(rows):
            return unconditional
        conditional = with_classes(self.denoiser, x_t[rows], t[rows], y[rows])
        return unconditional.index_copy(0, rows, torch.lerp(unconditional[rows], conditional, self.scale))

    def with_classes(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """`eps` where every row has a class."""
        return torch.lerp(self.denoiser.eps(x_t, t), with_classes(self.denoiser, x_t, t, y), self.scale)


def _split(y: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows have a class, and which have none."""
    return waits.rows(y != NO_CLASS), waits.rows(y == NO_CLASS)
