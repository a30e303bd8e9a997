"""Whether a defense is made for images of this shape; on others, every judgement would be about another model.

Grey images pass through a network for colour images where they are normalised by three means, which makes three
channels of one, and small images through one that ends in a global mean. So a defense that answers is not enough: its
first convolution must take as many channels as the images have, unless somebody chose these images.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.config import registry
from harness.datasets.by_name import find
from harness.defense import Defense
from harness.errors import Place, UserError
from harness.predict import query
from harness.randomness import derive, row_seeds

GREY, COLOUR = 1, 3
FEW = 2
"""Images in each trial; with one, a row could be taken for a batch."""

OTHER_SHAPES = ((1, 28, 28), (3, 64, 64), (3, 224, 224))
"""Usual shapes (C, H, W) that are tried beside those of the datasets that come with the package."""


def refuse_unfit(
    defense: Defense, x: Tensor, dataset: str, title: str, *, chosen: bool, where: Place | None = None
) -> None:
    """Raises UserError where images cannot be those that a defense was made for.

    Args:
        defense: in evaluation mode.
        x: images, (N, C, H, W) float32 in [0, 1], on the device of the defense.
        dataset: the name of their dataset.
        title: of the defense, for the message; where: its line.
        chosen: whether somebody named these images for this defense.
    """
    channels = x.shape[1]
    if _answers(defense, x[:FEW]):
        wanted = first_channels(defense, x[:FEW])
        if chosen or wanted in (None, channels):
            return
        raise UserError(
            f"{title} is a network for images of {wanted} channels, and those of '{dataset}' have {channels}",
            remedy=f"Name the images that it was made for, with --dataset NAME or --path FOLDER; --dataset {dataset} "
            "checks it on these all the same",
            where=where,
        )
    if found := next(_accepted(defense, x), None):
        shape, name = found
        other = f", such as those of '{name}'" if name else ""
        instead = f"Name such images, with --dataset {name or 'NAME'} or --path FOLDER"
        raise UserError(
            f"{title} takes images of {_written(shape)}{other}, and those of '{dataset}' are {_written(x.shape[1:])}",
            remedy=instead if where is None else "Give the suite another dataset, or a defense for these images",
            where=where,
        )


def first_channels(defense: Defense, x: Tensor) -> int | None:
    """The channels that the first convolution of a defense takes; None where it is not made for grey or colour images.

    Args:
        x: images that the defense answers, (N, C, H, W).
    """
    called: list[nn.Conv2d] = []
    layers = [module for module in defense.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.append(layer)) for layer in layers]
    try:
        _answers(defense, x)
    finally:
        for hook in hooks:
            hook.remove()
    return called[0].in_channels if called and called[0].in_channels in (GREY, COLOUR) else None


def _answers(defense: Defense, x: Tensor) -> bool:
    """Whether a defense answers images at all; why not, its checks say."""
    seeds = row_seeds(derive("fit"), torch.arange(len(x), device=x.device))
    try:
        with torch.no_grad():
            query(defense, x.clone(), seeds, defense)
    except Exception:
        return False
    return True


def _accepted(defense: Defense, x: Tensor) -> Iterator[tuple[tuple[int, ...], str]]:
    """Usual shapes that a defense answers, the smallest first, each with a dataset of that shape, or ""."""
    known: dict[tuple[int, ...], str] = dict.fromkeys(OTHER_SHAPES, "")
    for entry in registry.entries("datasets"):
        with registry.built_in_only():
            try:
                facts = find(entry.name).known
            except registry.Foreign:
                continue
        if facts and not known.get(facts.shape):
            known[facts.shape] = entry.name
    for shape, name in sorted(known.items(), key=lambda item: torch.Size(item[0]).numel()):
        if shape != tuple(x.shape[1:]) and _answers(defense, torch.rand_like(x[:FEW, :1, :1, :1]).expand(-1, *shape)):
            yield shape, name


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
