"""A faster copy of a convolutional defense, for an attack that queries it thousands of times.

In evaluation mode a batch normalisation is an affine map of each channel. Behind a convolution it becomes part of it:

    g (w * x + b - m) / sqrt(v + e) + h    =    (g / sqrt(v + e)) w * x  +  g (b - m) / sqrt(v + e) + h

The copy also keeps its channels last in memory, which convolutions on CPUs and GPUs prefer. It is the same function up
to rounding, and it is used only where that is seen to hold on some of the images: logits may differ by half of what
`clearly_misclassified` allows for rounding. Verdicts are the real defense's in any case.
"""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attacks.common.losses import ROUNDING
from harness.defense import Defense
from harness.gradients import View, exact
from harness.predict import draws_globally, exactly, query
from harness.process import waits

COMPARED = 8
"""Images on which the copy is compared with the defense."""


def folded(defense: Defense, x: Tensor, view: View = exact) -> Defense:
    """The faster copy, or the defense itself if there is nothing to fold, or if the copy is not the same function.

    Args:
        defense: a defense in evaluation mode.
        x: images that it will be asked about, (N, C, H, W) in [0, 1].
        view: how the attack queries it.
    """
    if defense.stochastic or draws_globally(defense):
        return defense
    if not any(isinstance(module, nn.BatchNorm2d) for module in defense.modules()):
        return defense
    x = x[:COMPARED]
    seeds = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    try:
        with torch.no_grad(), exactly():
            fast = _folded(copy.deepcopy(defense), x[:1], seeds[:1], view)
            ours, theirs = (query(d, x, seeds, partial(view, d)).float() for d in (fast, defense))
    except Exception:  # of any kind, from code that was never meant to be copied: the defense itself will do
        return defense
    differs = ~((ours - theirs).abs().amax() <= ROUNDING / 2 * theirs.abs().amax())  # true of a NaN as well
    return defense if waits.some(differs) or draws_globally(fast) else fast


def _folded(defense: Defense, x: Tensor, seeds: Tensor, view: View) -> Defense:
    """Folds a defense in place."""
    for first, second in _pairs(defense, x, seeds, view):
        convolution, norm = defense.get_submodule(first), defense.get_submodule(second)
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        _replace(defense, first, fuse_conv_bn_eval(convolution, norm))
        _replace(defense, second, nn.Identity())
    return defense.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _pairs(defense: Defense, x: Tensor, seeds: Tensor, view: View) -> list[tuple[str, str]]:
    """The names of each convolution whose output a batch normalisation gets as it is, and of that; each used once."""
    outputs: list[tuple[str, Tensor, int]] = []
    inputs: list[tuple[str, Tensor, int]] = []
    hooks = []

    def noted(seen: list[tuple[str, Tensor, int]], name: str, value: Tensor) -> None:
        seen.append((name, value, value._version))  # a later version: it was written into

    for name, module in defense.named_modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(lambda _, __, y, name=name: noted(outputs, name, y)))
        elif type(module) is nn.BatchNorm2d and not module.training and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda _, xs, name=name: noted(inputs, name, xs[0])))
    query(defense, x, seeds, partial(view, defense))
    for hook in hooks:
        hook.remove()
    uses = Counter(name for name, *_ in (*outputs, *inputs))
    pairs = [
        (convolution, norm)
        for norm, given, written in inputs
        for convolution, output, version in outputs
        if output is given and version == written
    ]
    return [pair for pair in pairs if all(uses[name] == 1 for name in pair)]


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, module)
