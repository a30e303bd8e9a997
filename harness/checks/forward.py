"""What a defense answers: devices, types, ranges, images by themselves, logits that attacks can use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.certification.smoothed import SmoothedDefense, smoothing_noise
from harness.checks.finding import Outcome, Skip, check
from harness.checks.probe import ROUNDED, Probe
from harness.threat import TOLERANCE

UNREPEATABLE = "two calls under the same seeds differ"


@check("runs", passes=0)
def runs(probe: Probe) -> Outcome:
    _ = probe.answer
    named = f" of {probe.dataset}" if probe.dataset else ""
    return "passed", f"an answer for {len(probe.x)} images{named}, shape {tuple(probe.x.shape[1:])}"


@check("device", passes=0)
def device(probe: Probe) -> Outcome:
    wanted = probe.x.device
    for name, output in (("logits", probe.answer), ("purified images", probe.purified)):
        if output.device != wanted:
            return "failed", f"images on {wanted} give {name} on {output.device}"
    return "passed", f"{wanted} in, {wanted} out"


@check("dtype", passes=0)
def dtype(probe: Probe) -> Outcome:
    for name, output in (("logits", probe.answer), ("purified images", probe.purified)):
        if output.dtype != probe.x.dtype:
            cause = "a cast or a constant of that type got in"
            return "failed", f"{probe.x.dtype} images give {output.dtype} {name}: {cause}"
    return "passed", f"{probe.x.dtype} in, {probe.x.dtype} out"


@check("finite logits", passes=0)
def finite(probe: Probe) -> Outcome:
    bad = int((~torch.isfinite(probe.logits)).any(1).sum())
    if bad:
        return "failed", f"NaN or infinite logits for {bad} of {len(probe.x)} images"
    return "passed", f"between {float(probe.logits.min()):.3g} and {float(probe.logits.max()):.3g}"


@check("images left alone", passes=1)
def images_kept(probe: Probe) -> Outcome:
    if probe.purifies:
        probe.ask(part=probe.defense.classify)
    for name, change in probe.changed.items():
        return "failed", f"{name} changes the images it is given in place, by up to {change:.3g}; work on a copy"
    return "passed", "x is not changed in place"


@check("purified images", passes=0)
def purified(probe: Probe) -> Outcome:
    images = probe.purified
    if images.shape != probe.x.shape:
        return "failed", f"purify turns shape {tuple(probe.x.shape)} into {tuple(images.shape)}"
    if not torch.isfinite(images).all():
        return "failed", "purify returns NaN or infinite pixels"
    low, high = float(images.min()), float(images.max())
    if isinstance(probe.defense, SmoothedDefense):
        return "passed", f"pixels from {low:.3g} to {high:.3g}, after noise that is not clipped"
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        return "failed", f"purify returns pixels from {low:.3g} to {high:.3g}, outside [0, 1]; clamp them"
    return "passed", f"pixels from {low:.3g} to {high:.3g}"


@check("forward is classify(purify(x))", passes=1)
def composition(probe: Probe) -> Outcome:
    defense = probe.defense
    if not probe.explains(probe.again):
        raise Skip(UNREPEATABLE)
    distance = probe.distance(probe.logits, probe.ask(part=lambda x: defense.classify(defense.purify(x))))
    if not probe.explains(distance):
        return "failed", (
            f"they differ by {distance:.1%} of the logits' spread under the same draws: bpda and blind attacks would "
            f"look at another defense"
        )
    return "passed", "under the same draws"


@check("smoothing noise", passes=1)
def smoothing(probe: Probe) -> Outcome:
    """A certificate adds the noise itself: what it certifies must be what the defense answers."""
    defense, x, seeds = probe.defense, probe.x, probe.seeds
    if not isinstance(defense, SmoothedDefense):
        return "passed", "it is not smoothed, and nothing is certified of it"
    if not probe.explains(probe.again):
        raise Skip(UNREPEATABLE)
    noisy = x + float(defense.sigma) * smoothing_noise(seeds, x)
    distance = probe.distance(probe.logits, probe.ask(noisy, part=defense.from_noisy))
    if not probe.explains(distance):
        return "failed", (
            f"forward(x) and from_noisy(x + noise) differ by {distance:.1%} of the logits' spread under the same "
            "draws: a certificate would be about another defense"
        )
    return "passed", f"forward(x) is from_noisy(x + noise), sigma {defense.sigma}"


@check("batch independence", passes=2.25)
def batch_independence(probe: Probe) -> Outcome:
    """Each image alone, or further up in a smaller batch; then all in reverse, and a faint one beside the others.

    Where all images reach from 0 to 1, a division by the batch's maximum would not show without the faint one.
    """
    x, seeds = probe.x, probe.seeds
    if len(x) < 2:
        raise Skip("it takes two images")
    if not probe.explains(probe.again):
        raise Skip(UNREPEATABLE)
    split = torch.cat([probe.ask(x[:1], seeds[:1]), probe.ask(x[1:], seeds[1:])])
    faint = x[:1] / 2
    alone = probe.ask(faint, seeds[:1])
    beside = probe.ask(torch.cat([x[1:], faint]).flip(0), torch.cat([seeds[1:], seeds[:1]]).flip(0)).flip(0)
    distance = max(
        probe.distance(probe.logits, split),
        probe.distance(torch.cat([probe.logits[1:], alone]), beside),
    )
    share = f"an image's logits change by up to {distance:.2%} of their spread with the others in its batch"
    if distance > ROUNDED and distance > probe.amplified:
        return (
            "failed",
            f"{share}: a statistic of the batch is used, such as its maximum, or that of batch normalisation",
        )
    if distance > ROUNDED:
        return "warned", f"{share}: float rounding, amplified"
    if probe.draws_globally:
        return "warned", (
            "noise comes from a global generator, so that the harness asks for one image at a time, which is slow; "
            "take one seed per image from self.seeds_for(x) and draw with harness.randomness"
        )
    return "passed", "an image's logits do not depend on its batch"


@check("logits, not probabilities", passes=0)
def not_probabilities(probe: Probe) -> Outcome:
    logits = probe.logits
    sums = (logits.sum(1) - 1).abs().max()
    if logits.min() >= 0 and logits.max() <= 1 + TOLERANCE and sums < 1e-3:
        return "failed", "every row lies in [0, 1] and sums to 1: a softmax hides gradients; return what goes into it"
    return "passed", "rows are not softmaxed"


@check("unsaturated logits", passes=0)
def unsaturated(probe: Probe) -> Outcome:
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
