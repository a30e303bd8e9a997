"""Whether the same question gets the same answer: honesty about randomness, in all the places where it can hide.

Two calls under two seeds show noise from the global generators, which the harness seeds; two calls under the same seeds
show noise from anywhere else (a generator of the defense's own, the clock, the operating system). Noise that comes only
near the images, or only in some calls, or answers that change with the number of calls, take more questions.
"""

from __future__ import annotations

import torch

from harness.checks.finding import Outcome, Skip, check
from harness.checks.probe import Probe
from harness.randomness import fold

OWN_SOURCE = "take noise from self.seeds_for(x) or from torch's global generator"

UNSTEADY = "two calls on the same images differ already"


@check("honest `stochastic`", passes=1)
def stochastic(probe: Probe) -> Outcome:
    distance = probe.under_other_seeds
    if probe.defense.stochastic:
        if distance == 0:
            return "failed", f"stochastic = True, but two draws agree exactly on all {len(probe.x)} images"
        return "passed", f"True: two draws differ by up to {distance:.2%} of the logits' spread"
    if not probe.explains(distance):
        return "failed", f"stochastic = False, but two calls differ by up to {distance:.2%} of the logits' spread"
    return "passed", "False: two calls agree"


@check("reproducible draws", passes=1)
def reproducible(probe: Probe) -> Outcome:
    if not probe.explains(probe.again):
        return (
            "failed",
            f"the same seeds give logits that differ by up to {probe.again:.2%} of their spread; {OWN_SOURCE}",
        )
    return "passed", "the same seeds give the same logits"


@check("same answers near the images", passes=2)
def near_the_images(probe: Probe) -> Outcome:
    if not probe.steady:
        raise Skip(UNSTEADY)
    first = probe.ask(probe.near)
    if bad := int((~torch.isfinite(first)).any(1).sum()):
        return "failed", f"NaN or infinite logits for {bad} of {len(first)} images with a little noise on them"
    again = probe.ask(probe.near, probe.seeds if probe.defense.stochastic else probe.other_seeds)
    distance = probe.distance(first, again)
    if not probe.explains(distance):
        return "failed", (
            f"two calls on images with a little noise on them differ by up to {distance:.2%} of the logits' spread, "
            f"though they agree on the images themselves: {_remedy(probe)}"
        )
    return "passed", "two calls on images with a little noise on them agree"


@check("same answers over many calls", passes=0)
def over_many_calls(probe: Probe) -> Outcome:
    if not probe.steady:
        raise Skip(UNSTEADY)
    if probe.repeats < 2:
        raise Skip("the defense is too slow to be called so often")
    x = torch.cat([probe.x[:1], probe.near[len(probe.near) // 2][None]])
    seeds = probe.seeds[:1].expand(2)
    first = probe.ask(x, seeds)
    for call in range(1, probe.repeats):
        again = probe.ask(x, seeds if probe.defense.stochastic else fold(seeds, call))
        distance = probe.distance(first, again)
        if not probe.explains(distance):
            return "failed", (
                f"call {call + 1} of {probe.repeats} on the same images differs by {distance:.2%} of the logits' "
                f"spread: {_remedy(probe)}"
            )
    return "passed", f"{probe.repeats} calls agree"


def _remedy(probe: Probe) -> str:
    if probe.defense.stochastic:
        return f"it keeps a state from call to call, or draws from a source of its own; {OWN_SOURCE}"
    return "it keeps a state from call to call, or is random; say `stochastic = True` of a random one"
