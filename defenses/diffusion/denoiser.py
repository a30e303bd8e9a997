"""Noise predictors under one protocol, whatever their networks expect and predict.

In x_t = a x + sigma eps (a = sqrt(alpha_t)), an estimate of any one of these gives the others:

    noise    eps                                   image    x = (x_t - sigma eps) / a        score    -eps / sigma

EDM's D(x + level eps; level) estimates the image at a = 1; for another diffusion it is asked at x_t / a and
level = sigma / a, where eps is the same. How times are put to a network, and what it predicts, is the business of the
adapters here alone; how the missing class is put to it, that of `conditioning`, where the network does not take
`NO_CLASS` as it is: the class-conditional `NCSNpp` adds nothing for it, `EDM` a zero one-hot vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from defenses.diffusion.schedule import Process, discrete_vp
from harness.errors import UserError
from harness.process import waits

NO_CLASS = -1
"""The label of a row that has no class: the paper's y = empty set."""


class Denoiser(Protocol):
    """eps_theta(x_t, t, y)."""

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The noise in x_t.

        Args:
            x_t: noisy images, (M, C, H, W), the clean ones in [-1, 1].
            t: times, (M,), of the diffusion that the denoiser was made for: int64 in 1..T where that is discrete.
            y: classes, (M,) int64 in 0..K-1, or `NO_CLASS`; None is `NO_CLASS` for all.

        Returns:
            (M, C, H, W).

        Raises:
            UserError: the network has no classes and one is given, or has no way to leave the class out.
        """


@runtime_checkable
class AllClassesDenoiser(Protocol):
    """eps_theta(x_t, t, y) for every y at the price of one."""

    def eps_all(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise in x_t under each class: (M, C, H, W), (M,) -> (M, K, C, H, W)."""


@runtime_checkable
class ChoosesByClass(Protocol):
    """A denoiser that looks which rows have a class, for which the host waits for the device."""

    def with_classes(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """eps, without a look: every row has a class. Where none has, `eps` with y = None does not look either."""


def with_classes(denoiser: Denoiser, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """eps where every row is known to have a class."""
    if isinstance(denoiser, ChoosesByClass):
        return denoiser.with_classes(x_t, t, y)
    return denoiser.eps(x_t, t, y)


@dataclass(frozen=True)
class _AllOrNone:
    """A denoiser that is asked about rows that all have a class, or have none."""

    denoiser: ChoosesByClass
    classes: bool

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if self.classes and y is not None:
            return self.denoiser.with_classes(x_t, t, y)
        found: Tensor = self.denoiser.eps(x_t, t)  # type: ignore[attr-defined]  # it is a denoiser too
        return found


def knowing(denoiser: Denoiser, classes: Tensor) -> Denoiser:
    """The denoiser for rows that have some of these classes. Whether all have one is found out once, here.

    Args:
        classes: of any shape, int64; `NO_CLASS` among them or not. If they are not on the CPU, the host waits.
    """
    if not isinstance(denoiser, ChoosesByClass):
        return denoiser
    none = classes == NO_CLASS
    mixed = waits.some(none) and waits.some(~none)
    return denoiser if mixed else _AllOrNone(denoiser, classes=not waits.some(none))


def score(denoiser: Denoiser, process: Process, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """grad log p_t(x_t | y), (M, C, H, W). process: the diffusion that t is a time of."""
    return -denoiser.eps(x_t, t, y) / _per_image(process.sigma(t), x_t)


class Adapter(nn.Module):
    """A network made to fit the protocol; subclasses say what it predicts.

    Args:
        network: (x, label, y) -> a tensor of the shape of x. It is frozen and set to evaluation.
        process: the diffusion that t is a time of.
    """

    def __init__(self, network: nn.Module, process: Process) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.process = process

    def ask(self, x: Tensor, label: Tensor, y: Tensor | None) -> Tensor:
        """What the network predicts, (M, C, H, W).

        Raises:
            UserError: it predicts something of another shape.
        """
        found: Tensor = self.network(x, label, y)
        if found.shape != x.shape:
            raise UserError(
                f"the network answers images of shape {tuple(x.shape)} with {tuple(found.shape)}",
                remedy="`WithoutVariance` cuts learned variances off, `MultiHead` is for a prediction per class",
            )
        return found


class NoisePredictor(Adapter):
    """A network that predicts eps, such as `NCSNpp`, or `UNet2D`."""

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.ask(x_t, self.process.label(t), y)


class DiscreteVP(NoisePredictor):
    """A noise predictor trained on `discrete_vp`: its time label is t - 1, on the scale 0..999.

    Args:
        network: (x_t, labels, y) -> eps, such as `NCSNpp`. It is frozen and set to evaluation.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, discrete_vp())


class ImagePredictor(Adapter):
    """A network that predicts the clean image x."""

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.ask(x_t, self.process.label(t), y)
        return (x_t - _per_image(self.process.signal(t), x_t) * x) / _per_image(self.process.sigma(t), x_t)


class ScorePredictor(Adapter):
    """A network that predicts grad log p_t(x_t | y)."""

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return -_per_image(self.process.sigma(t), x_t) * self.ask(x_t, self.process.label(t), y)


class EDMDenoiser(Adapter):
    """D(x; sigma, y) of EDM, such as `EDM`, under any diffusion.

    The published conditional networks answer `NO_CLASS` (a zero one-hot vector), but never saw it in training: their
    unconditional model is another network, see `Pair`.

    Args:
        network: D. It is frozen and set to evaluation.
        process: `ContinuousVE()` for EDM's own x + t eps, `discrete_ve(sigmas)` for chosen steps of it, or a VP one.
    """

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        level = self.process.level(t).to(x_t)
        x = x_t / _per_image(self.process.signal(t), x_t)
        return (x - self.ask(x, level, y)) / _per_image(level, x_t)


class MultiHead(nn.Module):
    """A noise predictor with a head for each class. Its class table, if it has one, is not used.

    Args:
        network: (x_t, label) -> (M, heads, C, H, W), such as `NCSNpp(heads=...)`. It is frozen and set to evaluation.
        process: the diffusion that t is a time of.
        null_head: the last head predicts for no class. Without one, rows without a class are refused.
        guidance: w in eps = eps_u + w (eps_c - eps_u), classifier-free guidance at no cost; 1 is none.

    Raises:
        UserError: guidance without a null head.
    """

    def __init__(self, network: nn.Module, process: Process, *, null_head: bool = False, guidance: float = 1.0) -> None:
        super().__init__()
        if guidance != 1 and not null_head:
            raise UserError(f"guidance is {guidance}", remedy="It needs a null head; without one leave it at 1")
        self.network = network.eval().requires_grad_(False)
        self.process, self.null_head, self.guidance = process, null_head, guidance

    def eps_all(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(M, C, H, W), (M,) -> (M, K, C, H, W); K leaves the null head out."""
        heads = self._heads(x_t, t)
        return self._guided(heads[:, :-1], heads[:, -1:]) if self.null_head else heads

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if not self.null_head and (y is None or waits.some(y == NO_CLASS)):
            raise UserError("the network has no head for images without a class", remedy="Use one with a null head")
        return self._heads(x_t, t)[:, -1] if y is None else self.with_classes(x_t, t, y)

    def with_classes(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """`eps` where the network has a head for each row's class, or a null head."""
        heads = self._heads(x_t, t)
        own = heads[torch.arange(len(y), device=y.device), y]  # NO_CLASS picks the last head
        return self._guided(own, heads[:, -1]) if self.null_head else own

    def _heads(self, x_t: Tensor, t: Tensor) -> Tensor:
        found: Tensor = self.network(x_t, self.process.label(t))
        if found.ndim != 5 or found.shape[2:] != x_t.shape[1:]:
            raise UserError(f"the network answers images of shape {tuple(x_t.shape)} with {tuple(found.shape)}")
        return found

    def _guided(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        return torch.lerp(unconditional.expand_as(conditional), conditional, self.guidance)


class WithoutVariance(nn.Module):
    """A network that predicts a learned variance after the noise, in as many channels, without it.

    Args:
        network: (x, label, y) -> (M, 2 C, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor, y: Tensor | None = None) -> Tensor:
        """(M, C, H, W)."""
        both: Tensor = self.network(x, label, y)
        return both.chunk(2, dim=1)[0]


ADAPTERS: dict[str, type[NoisePredictor | ImagePredictor | ScorePredictor | EDMDenoiser]] = {
    "noise": NoisePredictor,
    "image": ImagePredictor,
    "score": ScorePredictor,
    "edm": EDMDenoiser,
}


def adapted(network: nn.Module, process: Process) -> Denoiser:
    """A network under a diffusion, by what it says of itself.

    That is how many `heads` it has, if it is a multi-head network, and whether the last is a `null_head`; else what it
    `predicts`: a key of `ADAPTERS`, noise where it says nothing.
    """
    if getattr(network, "heads", None):
        return MultiHead(network, process, null_head=knows_no_class(network))
    return ADAPTERS[getattr(network, "predicts", "noise")](network, process)


def knows_no_class(network: nn.Module) -> bool:
    """Whether a network was trained to do without the class, by what it says of itself: with heads, `null_head`."""
    if getattr(network, "heads", None):
        return bool(getattr(network, "null_head", False))
    return bool(getattr(network, "knows_no_class", True))


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    """(M,) -> (M, 1, 1, 1), in the type and on the device of x."""
    return values.to(x)[:, None, None, None]
