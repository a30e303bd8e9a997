"""What a defense answers: shapes, ranges, honesty about randomness, logits that attacks can use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.check.probe import Part, Probe
from harness.check.verdict import Judgement, rule
from harness.threat import TOLERANCE

EQUAL = 1e-5
"""Difference of two equal computations, relative to the spread of the logits, that float rounding explains."""

ROUNDED = 1e-3
"""The same for computations in another order, such as another batch size."""

AMPLIFIED = 5e-2
"""The same for a defense that amplifies rounding, by steps along the sign of a gradient say."""


@rule("runs")
def runs(probe: Probe) -> Judgement:
    return "passed", f"logits for {len(probe.logits)} images of shape {tuple(probe.x.shape[1:])}"


@rule("logits' shape")
def shape(probe: Probe) -> Judgement:
    found, count, classes = tuple(probe.logits.shape), len(probe.x), probe.defense.num_classes
    wanted = f"({count}, {'K' if classes is None else classes})"
    if len(found) != 2 or found[0] != count or found[1] < 2 or classes not in (None, found[1]):
        return "failed", f"{found} for {count} images, not {wanted}"
    return "passed", f"{found}"


@rule("device")
def device(probe: Probe) -> Judgement:
    wanted = probe.x.device
    for name, output in (("logits", probe.logits), ("purified images", probe.purified)):
        if output.device != wanted:
            return "failed", f"images on {wanted} give {name} on {output.device}"
    return "passed", f"{wanted} in, {wanted} out"


@rule("dtype")
def dtype(probe: Probe) -> Judgement:
    for name, output in (("logits", probe.logits), ("purified images", probe.purified)):
        if output.dtype != probe.x.dtype:
            return "failed", f"{probe.x.dtype} images give {output.dtype} {name}; a constant of that type got in"
    return "passed", f"{probe.x.dtype} in, {probe.x.dtype} out"


@rule("finite logits")
def finite(probe: Probe) -> Judgement:
    bad = int((~torch.isfinite(probe.logits)).any(1).sum())
    if bad:
        return "failed", f"NaN or infinite logits for {bad} of {len(probe.x)} images"
    return "passed", f"between {float(probe.logits.min()):.3g} and {float(probe.logits.max()):.3g}"


@rule("images left alone")
def images_kept(probe: Probe) -> Judgement:
    defense = probe.defense
    parts: dict[str, Part] = {"forward": defense, "purify": defense.purify, "classify": defense.classify}
    for name, part in parts.items():
        x = probe.x.clone()
        with torch.no_grad(), defense.drawing(probe.seeds):
            part(x)
        change = float((x - probe.x).abs().max())
        if change > 0:
            return "failed", f"{name} changes the images it is given in place, by up to {change:.3g}; work on a copy"
    return "passed", "x is not changed in place"


@rule("purified images")
def purified(probe: Probe) -> Judgement:
    images = probe.purified
    if images.shape != probe.x.shape:
        return "failed", f"purify turns shape {tuple(probe.x.shape)} into {tuple(images.shape)}"
    if not torch.isfinite(images).all():
        return "failed", "purify gives NaN or infinite pixels"
    low, high = float(images.min()), float(images.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        return "failed", f"purify gives pixels from {low:.3g} to {high:.3g}, outside [0, 1]; clamp them"
    return "passed", f"pixels from {low:.3g} to {high:.3g}"


@rule("forward is classify(purify(x))")
def composition(probe: Probe) -> Judgement:
    defense = probe.defense
    distance = probe.distance(probe.logits, probe.ask(part=lambda x: defense.classify(defense.purify(x))))
    if distance > EQUAL:
        return "failed", (
            f"they differ by {distance:.1%} of the logits' spread under the same draws: bpda and blind attacks would "
            f"look at another defense"
        )
    return "passed", "under the same draws"


@rule("batch independence")
def batch_independence(probe: Probe) -> Judgement:
    x, seeds = probe.x, probe.seeds
    split = torch.cat([probe.ask(x[:1], seeds[:1]), probe.ask(x[1:], seeds[1:])])
    if probe.defense.stochastic and probe.draws_globally:
        return "warned", (
            "noise comes from a global generator, so that an image's logits depend on its batch; take one seed per "
            "image from self.seeds_for(x) and draw with harness.randomness"
        )
    flipped = probe.ask(x.flip(0), seeds.flip(0)).flip(0)
    faint = x[:1] / 2  # where all images reach from 0 to 1, a division by the batch's maximum would not show
    alone, beside = probe.ask(faint, seeds[:1]), probe.ask(torch.cat([faint, x[1:]]), seeds)[:1]
    pairs = (probe.logits, split), (probe.logits, flipped), (alone, beside)
    distance = max(probe.distance(one, other) for one, other in pairs)
    share = f"an image's logits change by up to {distance:.2%} of their spread with the others in its batch"
    if distance > AMPLIFIED:
        return (
            "failed",
            f"{share}; is a statistic of the batch used (its maximum, or batch normalisation while training)?",
        )
    if distance > ROUNDED:
        return "warned", f"{share}: float rounding, amplified"
    return "passed", "an image's logits do not depend on its batch"


@rule("honest `stochastic`")
def stochastic(probe: Probe) -> Judgement:
    distance = probe.distance(probe.logits, probe.ask(seeds=probe.other_seeds))
    if probe.defense.stochastic:
        if distance == 0:
            return "failed", f"stochastic = True, but two draws agree exactly on all {len(probe.x)} images"
        return "passed", f"True: two draws differ by up to {distance:.2%} of the logits' spread"
    if distance > EQUAL:
        return "failed", f"stochastic = False, but two calls differ by up to {distance:.2%} of the logits' spread"
    return "passed", "False: two calls agree"


@rule("reproducible draws")
def reproducible(probe: Probe) -> Judgement:
    distance = probe.distance(probe.logits, probe.ask())
    if distance > EQUAL:
        return "failed", (
            f"the same seeds give logits that differ by up to {distance:.2%} of their spread; take noise from "
            f"self.seeds_for(x) or from torch's global generator"
        )
    return "passed", "the same seeds give the same logits"


@rule("logits, not probabilities")
def not_probabilities(probe: Probe) -> Judgement:
    logits = probe.logits
    sums = (logits.sum(1) - 1).abs().max()
    if logits.min() >= 0 and logits.max() <= 1 + TOLERANCE and sums < 1e-3:
        return "failed", "every row lies in [0, 1] and sums to 1: a softmax hides gradients; return what goes into it"
    return "passed", "rows are not softmaxed"


@rule("unsaturated logits")
def unsaturated(probe: Probe) -> Judgement:
    logits, count = probe.logits.float(), len(probe.x)
    top = logits.topk(2).values
    gap = f"the two largest logits differ by {float((top[:, 0] - top[:, 1]).median()):.3g} (median)"
    blind = int((_cross_entropy_gradient(logits) == 0).all(1).sum())
    if blind:
        return "failed", (
            f"the gradient of the cross-entropy is exactly 0 in float32 for {blind} of {count} images: {gap}; divide "
            f"the logits by a constant"
        )
    rounded = int((F.softmax(logits, 1).amax(1) == 1).sum())
    if 2 * rounded > count:
        return "warned", f"the softmax rounds to 1 for {rounded} of {count} images: {gap}; use dlr or margin losses"
    return "passed", gap


def _cross_entropy_gradient(logits: Tensor) -> Tensor:
    """With respect to the logits, for the predicted class: softmax(z) - onehot."""
    return F.softmax(logits, 1) - F.one_hot(logits.argmax(1), logits.shape[1])
