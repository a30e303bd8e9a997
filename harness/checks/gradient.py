"""Whether a gradient exists, and whether it is the derivative of what is computed.

For a stage s (purify or classify), fixed draws and a fixed random w per image, let f(x) = <w, s(x)>. Along a random
unit direction d the gradient claims <grad f, d>; the central difference measures

    (f(x + h d) - f(x - h d)) / 2h,     h in STEPS, in L2 units of the image.

Large steps are off by curvature and kinks, small ones by rounding: the best step decides. The images are first shrunk
to [0.1, 0.9], away from the clamps at 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.checks.finding import Outcome, Skip, Status, check
from harness.checks.probe import ROUNDED, Part, Probe
from harness.defense import Defense
from harness.gradients import Gradient, bpda
from harness.predict import exactly, query
from harness.randomness import fold, normal

BPDA = "attack it with `gradient: bpda`"

CAUSES = "no_grad, .data, numpy or argmax on the way?"

STEPS = (0.1, 0.03, 0.01, 0.003)
DIRECTIONS = 2
AGREE, RESEMBLE = 0.05, 0.3
"""Relative errors up to which gradient and difference quotient agree, or differ as they do at kinks."""


@check("gradient of classify", passes=3.5)
def classify_gradient(probe: Probe) -> Outcome:
    grad = _gradient(probe, probe.defense.classify, probe.purified)
    if grad is None:
        return "failed", f"the logits are detached from the images ({CAUSES})"
    return _alive(grad, len(probe.x), "failed")


@check("same answers while gradients are taken", passes=1.5)
def while_gradients_are_taken(probe: Probe) -> Outcome:
    """An attack looks at the defense with gradients on, the verdict with gradients off: it has to be one function."""
    if not probe.explains(probe.again):
        raise Skip("two calls under the same seeds differ")
    views = (probe.defense, lambda x: bpda(probe.defense, x))  # the second where NumPy in purify bars the first
    answers = (_differentiable(probe, view, probe.x.clone().requires_grad_()) for view in views)
    logits = next((answer.detach().float() for answer in answers if answer is not None), None)
    if logits is None:
        raise Skip("the defense calls NumPy, which has no gradients")
    distance = probe.distance(probe.logits, logits)
    if distance > ROUNDED and distance > probe.amplified:
        return "failed", (
            f"the logits are others while gradients are taken, by up to {distance:.1%} of their spread: attacks would "
            f"look at another defense than the verdict"
        )
    return "passed", "the same logits with gradients and without"


@check("gradient of purify")
def purify_gradient(probe: Probe) -> Outcome:
    if not probe.purifies:
        return "passed", "purify is the identity"
    grad = _gradient(probe, probe.defense.purify, probe.x)
    if grad is None:
        return "warned", f"the purified images are detached: {BPDA}"
    status, message = _alive(grad, len(probe.x), "warned")
    return status, message if status == "passed" else f"{message}: {BPDA}"


@check("gradient of forward")
def forward_gradient(probe: Probe) -> Outcome:
    defense = probe.defense
    whole = _gradient(probe, defense, probe.x)
    parts = _gradient(probe, lambda x: defense.classify(defense.purify(x)), probe.x)
    if whole is None or parts is None:
        if whole is parts and _gradient(probe, defense.classify, probe.purified) is None:
            return "failed", "none, as classify has none"
        if whole is parts:
            return "warned", f"none, as purify has none: {BPDA}"
        return "failed", f"{'forward' if whole is None else 'classify(purify(x))'} is detached, the other is not"
    error = float((whole - parts).norm() / parts.norm().clamp(min=torch.finfo(parts.dtype).tiny))
    if error > 1e-3:
        return "failed", f"forward and classify(purify(x)) have gradients that differ by {error:.1%}"
    return "passed", "that of classify(purify(x))"


@check("gradient under bpda")
def bpda_gradient(probe: Probe) -> Outcome:
    surrogate = probe.ask(part=probe.defense.purify_surrogate)
    if surrogate.shape != probe.purified.shape:
        return (
            "failed",
            f"purify_surrogate returns {tuple(surrogate.shape)}, purify returns {tuple(probe.purified.shape)}",
        )
    grad = _gradient(probe, lambda x: bpda(probe.defense, x), probe.x)
    if grad is None:
        return "failed", "the logits are detached from purify_surrogate(x)"
    return _alive(grad, len(probe.x), "failed")


@check("finite differences of classify")
def classify_differences(probe: Probe) -> Outcome:
    return _differences(probe, probe.defense.classify, probe.purified)


@check("finite differences of purify")
def purify_differences(probe: Probe) -> Outcome:
    """Never a failure: a sign, a rounding or a straight-through estimate in purify is a choice, if one to know of."""
    if not probe.purifies:
        return "passed", "purify is the identity"
    status, message = _differences(probe, probe.defense.purify, probe.x)
    if status == "passed":
        return status, message
    return "warned", f"{message}; {BPDA} beside `exact`"


@dataclass(frozen=True)
class Obstacle:
    """What lets no gradient through. part: "purify" or "classify"; message: that, and what to do, in a sentence."""

    part: str
    message: str


def obstacle(defense: Defense, x: Tensor, gradient: Gradient) -> Obstacle | None:
    """Why an attack finds no gradient of this view of a defense, or None where the parts that it looks at have one.

    Args:
        x: some images, (N, C, H, W).
    """
    probe = Probe(defense, x)
    if gradient == "exact" and probe.purifies and _gradient(probe, defense.purify, probe.x) is None:
        return Obstacle("purify", f"purify has no gradient: {BPDA}")
    if _gradient(probe, defense.classify, probe.purified) is None:
        return Obstacle(
            "classify",
            f"classify has no gradient ({CAUSES}): move what cannot be differentiated into purify and {BPDA}, or take "
            "an attack without gradients, `{type: autoattack, version: custom, attacks: [square]}`",
        )
    return None


def _alive(grad: Tensor, count: int, otherwise: Status) -> Outcome:
    """Finite and not zero. grad: (N, C, H, W)."""
    if not torch.isfinite(grad).all():
        return "failed", "it has NaN or infinite entries"
    dead = int((grad == 0).flatten(1).all(1).sum())
    if dead == count:
        return otherwise, f"it is zero everywhere, on all {count} images"
    if dead:
        return "warned", f"it is zero everywhere on {dead} of {count} images"
    return "passed", f"not zero, norm {float(grad.flatten(1).norm(dim=1).median()):.3g} (median)"


def _differences(probe: Probe, part: Part, x: Tensor) -> Outcome:
    x = 0.1 + 0.8 * x.detach().clamp(0, 1)
    grad = _gradient(probe, part, x)
    if grad is None or not grad.any():
        return "warned", "there is no gradient to compare"
    errors = [_error(probe, part, x, grad, step) for step in STEPS]
    best = min(range(len(STEPS)), key=lambda i: errors[i])
    share = f"median relative error {errors[best]:.1%} along random directions (L2 step {STEPS[best]})"
    if errors[best] <= AGREE:
        return "passed", share
    if errors[best] <= RESEMBLE:
        return "warned", f"{share}: only roughly a derivative"
    return "failed", f"{share}: the gradient is not the derivative of what is computed"


def _error(probe: Probe, part: Part, x: Tensor, grad: Tensor, step: float) -> float:
    """Median over images of |claimed - measured| / max(|claimed|, |measured|), each a norm over directions."""
    pairs = [_slopes(probe, part, x, grad, step, number) for number in range(DIRECTIONS)]
    claimed, measured = (torch.stack(slopes).double() for slopes in zip(*pairs, strict=True))
    largest = torch.maximum(claimed.norm(dim=0), measured.norm(dim=0)).clamp(min=1e-30)
    return float(((claimed - measured).norm(dim=0) / largest).median())


def _slopes(probe: Probe, part: Part, x: Tensor, grad: Tensor, step: float, number: int) -> tuple[Tensor, Tensor]:
    """Along a direction: what the gradient claims and what differences measure, (N,) each."""
    direction = _unit(normal(fold(probe.seeds, 2, number), x.shape[1:]))
    ahead, behind = (_project(probe, probe.ask(x + sign * step * direction, part=part)) for sign in (1, -1))
    return (grad * direction).flatten(1).sum(1), (ahead - behind) / (2 * step)


def _gradient(probe: Probe, part: Part, x: Tensor) -> Tensor | None:
    """Of <w, part(x)>, image by image: (N, C, H, W), or None where nothing of the output can be differentiated."""
    x = x.detach().clone().requires_grad_()
    output = _differentiable(probe, part, x)
    if output is None or not output.requires_grad:
        return None
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(_project(probe, output).sum(), x, allow_unused=True)
    return grad


def _differentiable(probe: Probe, part: Part, x: Tensor) -> Tensor | None:
    """What a part answers while gradients are taken; None where it calls NumPy, which has none."""
    try:
        with torch.enable_grad(), exactly():
            return query(probe.defense, x, probe.seeds, part)
    except RuntimeError as error:
        if "numpy()" not in str(error):  # "Can't call numpy() on Tensor that requires grad"
            raise
        return None


def _project(probe: Probe, output: Tensor) -> Tensor:
    """<w, output> for the fixed random unit w of each image, (N,)."""
    return (output * _unit(normal(fold(probe.seeds, 3), output.shape[1:])).to(output)).flatten(1).double().sum(1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.flatten(1).norm(dim=1).view(-1, *[1] * (vectors.dim() - 1))
