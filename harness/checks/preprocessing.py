"""Whether a network sees images as it was trained to: by its card's accuracy, and by what its first layer is given.

Of n images k are classified right, where the card says a share p. The card is doubted where

    P(Bin(n, p) <= k) < DOUBT

A card describes the classifier, so a defense that purifies is measured without its purifier.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.checks.finding import Outcome, Skip, check
from harness.checks.fit import first_channels
from harness.checks.probe import Part, Probe

DOUBT = 1e-5

SURPRISE = 4.0
"""Standard deviations between a card's clean accuracy and the measured one that chance does not explain."""

SURE = 0.999
"""A card's accuracy of 1 is one of finitely many images."""

REACH, STRAYS = 2.9, 0.02
"""How far from 0 images in [0, 1] come by one normalisation, with the statistics of any usual dataset, and the share of
values beyond that is allowed: Gaussian noise, which diffusion models look at, has less than half a percent there."""

CAUSES = "is normalisation applied twice, or left out, or are images expected in another range or channel order?"


def unlike_its_card(measured: float, count: int, expected: float) -> list[str]:
    """The gate on accuracy: a remark where a run's clean accuracy is not what the card says, or none.

    Args:
        measured, expected: shares of images that are classified right; count: of images measured.
    """
    spread = math.sqrt(max(expected * (1 - expected), 0.01) / count)
    if abs(measured - expected) <= SURPRISE * spread:
        return []
    return [f"accuracy: {measured:.1%} of {count} clean images, where its card says {expected:.1%}"]


@check("accuracy")
def accuracy(probe: Probe) -> Outcome:
    if probe.y is None:
        raise Skip("no labels were given")
    count, right = len(probe.y), _right(probe, probe.y, probe.defense)
    share = f"{right / count:.1%} of {count} clean images"
    expected = probe.defense.expected_accuracy
    if expected is None or probe.dataset is None or probe.defense.expected_dataset != probe.dataset:
        return ("warned", f"{share}: {CAUSES}") if right < count / 2 else ("passed", share)
    alone = _right(probe, probe.y, probe.defense.classify) if probe.purifies else right
    if _tail(alone, count, min(expected, SURE)) < DOUBT:
        share = f"{alone / count:.1%} of {count} clean images{', without purify' if probe.purifies else ''}"
        return (
            "failed",
            f"{share}, where its card says {expected:.1%}: {CAUSES} If not, its settings are not the card's",
        )
    return "passed", f"{share}; its card says {expected:.1%}"


@check("images as the network sees them")
def first_layer(probe: Probe) -> Outcome:
    channels, wanted = probe.x.shape[1], first_channels(probe.defense, probe.x)
    if wanted not in (None, channels):
        return (
            "warned",
            f"its first layer takes {wanted} channels, and the images have {channels}: does the defense convert them, "
            "or does a normalisation with a mean per channel do so by accident?",
        )
    seen = _first_input(probe)
    if seen is None:
        raise Skip("no layer takes images")
    beyond = float((seen.abs() > REACH).float().mean())
    share = f"its first layer sees values from {float(seen.min()):.2g} to {float(seen.max()):.2g}"
    if beyond > STRAYS:
        return "warned", f"{share}, {beyond:.0%} of them beyond {REACH}, the most after one normalisation: {CAUSES}"
    return "passed", share


def _right(probe: Probe, y: Tensor, part: Part) -> int:
    batches = zip(*(values.split(len(probe.x)) for values in (probe.labelled, probe.ids)), strict=True)
    answers = [probe.ask(x, probe.seeds_of(ids), part).argmax(1) for x, ids in batches]
    return int(torch.eq(torch.cat(answers), y).sum())


def _tail(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k)."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def _first_input(probe: Probe) -> Tensor | None:
    """What the first layer as wide as the images is given, in one pass; None where there is no such layer."""
    seen: list[Tensor] = []
    shape = probe.x.shape[1:]
    layers = [module for module in probe.defense.modules() if _takes(module, shape)]
    hooks = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in layers]
    try:
        probe.ask()
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0].detach().float() if seen else None


def _takes(module: nn.Module, shape: torch.Size) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.in_channels == shape[0]
    return isinstance(module, nn.Linear) and module.in_features == shape.numel()
