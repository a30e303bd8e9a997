"""A network that has no class of ours: whatever a suite can name and PyTorch can call.

{type: module, module: "./net.py:make_net", weights: net.pt, mean: [...], std: [...]}     a file of the user's
{type: module, module: "torchvision.models:resnet18", weights: net.pt}                    any importable module
{type: module, module: "timm:resnet18.a1_in1k", weights: net.safetensors}                 a model of timm, by name
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from harness.config import registry
from harness.config.importable import Importable
from harness.defense import Defense
from harness.errors import Failed, UserError, nearest, one_line
from harness.weights import Checkpoint
from harness.weights.normalization import NormalizedNetwork

TIMM = "timm"

LIBRARIES = ("torchvision", TIMM)
"""Whose models come with random weights, or with some that the library downloads."""

DOWNLOADS = ("weights", "pretrained", "checkpoint")
"""How arguments begin by which these libraries download weights, or load files that may hold code."""


class ModuleReference(Importable):
    """What makes a network: as any `Importable`, or `timm:name` for a model of timm."""

    def load(self) -> Any:
        if self.module != TIMM:
            return super().load()
        registry.refuse_foreign(self.written)
        try:
            import timm
        except ImportError as error:
            raise UserError(
                f"'{self.written}' needs timm, which cannot be imported: {one_line(error, at='')}",
                remedy="pip install 'adversarial-harness[timm]'",
            ) from error
        if not timm.is_model(self.attribute):
            raise UserError(f"timm has no model '{self.attribute}'", remedy=nearest(self.attribute, timm.list_models()))
        return partial(timm.create_model, self.attribute, pretrained=False)

    @property
    def library(self) -> str | None:
        """The one of `LIBRARIES` that it is in."""
        return next((name for name in LIBRARIES if f"{self.module}.".startswith(f"{name}.")), None)


class Module(NormalizedNetwork):
    """Any network by the code that makes it: logits = network((x - mean) / std).

    The images have the size that they have in the dataset: a network that wants another must resize them itself. The
    networks of torchvision and timm are made without weights, and nothing is downloaded, so that they need `weights`;
    what a function of yours does is left to it.

    Example:
        >>> import torch
        >>> Module("torch.nn:Flatten")(torch.rand(2, 1, 2, 5)).shape
        torch.Size([2, 10])

    Args:
        module: `package.module:name`, `./file.py:name` relative to the suite, or `timm:name`: a function or a class
            that gives a torch.nn.Module when it is called, or such a module itself.
        arguments: what the function or the class is called with, by name.
        weights: a checkpoint of that network, in any layout that `harness weights` knows; nothing in it is executed.
        mean, std: normalisation by channel; both left out, that of a layer in the checkpoint or the network's own
            attribute `preprocessing`, and without one the network gets images as they are, in [0, 1].
        num_classes: how many classes it tells apart; left out, as many as it gives logits.
        stochastic: whether two calls on one image may differ.

    Raises:
        UserError: there is no such code, it does not take the arguments or gives no torch.nn.Module, the weights do not
            fit, or two numbers of classes or two normalisations are given.
        Failed: the code failed.
    """

    def __init__(
        self,
        module: ModuleReference,
        arguments: dict[str, Any] | None = None,
        weights: Checkpoint | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        num_classes: int | None = None,
        stochastic: bool = False,
    ) -> None:
        reference = ModuleReference(module) if isinstance(module, str) else module
        checkpoint = None if weights is None else Checkpoint.find(weights)
        if checkpoint is None and reference.library:
            raise UserError(
                f"'{reference.written}' has random weights: nothing is downloaded from {reference.library}",
                remedy="Give the file of its weights with `weights:`",
            )
        network = network_of(reference, arguments or {}).eval().requires_grad_(False)
        super().__init__(checkpoint.load_into(network) if checkpoint else network, mean, std, checkpoint)
        if num_classes is not None and self.num_classes not in (None, num_classes):
            raise UserError(
                f"num_classes is {num_classes}, but the card of the weights says {self.num_classes}",
                remedy="Correct whichever is wrong",
            )
        self.num_classes = self.num_classes if num_classes is None else num_classes
        self.stochastic = stochastic


def network_of(reference: ModuleReference, arguments: dict[str, Any]) -> nn.Module:
    """What a reference gives. An object that others could name too is copied, since weights may be loaded into it.

    Raises:
        UserError: it takes other arguments, or gives no torch.nn.Module.
        Failed: it failed.
    """
    found = reference.load()
    if isinstance(found, Defense) or (inspect.isclass(found) and issubclass(found, Defense)):
        raise UserError(
            f"'{reference.written}' is a defense, which says itself what it is",
            remedy=f"Write `type: {reference.written}` in place of `type: module`",
        )
    if isinstance(found, nn.Module):
        if arguments:
            raise UserError(f"'{reference.written}' is a network already, and takes no arguments", remedy="Remove them")
        found = partial(copy.deepcopy, found)
    if not callable(found):
        raise UserError(
            f"'{reference.written}' is {_kind(found)}, neither a torch.nn.Module nor a function that gives one"
        )
    _refuse_downloads(reference, arguments)
    left_out = dict(_left_out(reference, found))
    _refuse_unknown(reference, found, arguments)
    try:
        network = found(**left_out, **arguments)
    except UserError:
        raise
    except Exception as error:  # of the user's code, or of the library's
        raise Failed(f"'{reference.written}' failed: {one_line(error, at='')}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"'{reference.written}' gives {_kind(network)}, not a torch.nn.Module")
    return network


def _refuse_downloads(reference: ModuleReference, arguments: dict[str, Any]) -> None:
    named = next((name for name in arguments if name.startswith(DOWNLOADS)), None)
    if reference.library and named:
        raise UserError(
            f"'{named}' of '{reference.written}' would have {reference.library} find weights of its own",
            remedy="Remove it, and give the file of the weights with the defense's `weights:`",
        )


def _left_out(reference: ModuleReference, found: Callable[..., Any]) -> Iterator[tuple[str, None]]:
    """Arguments of torchvision whose default may be weights to download, such as those of a backbone."""
    if reference.library == "torchvision":
        yield from ((name, None) for name in _parameters(found) or () if name.startswith("weights"))


def _refuse_unknown(reference: ModuleReference, found: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raises a UserError for an argument that the code does not take, or lacks, as far as its signature says so."""
    accepted = _parameters(found)
    if accepted is None:
        return
    named = {n: p for n, p in accepted.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for name in arguments:
        if name not in named and not takes_any:
            raise UserError(f"'{reference.written}' has no argument '{name}'", remedy=nearest(name, named))
    for name, parameter in named.items():
        if name not in arguments and parameter.default is parameter.empty:
            raise UserError(f"'{reference.written}' needs '{name}'", remedy=f"Add `arguments: {{{name}: ...}}`")


def _parameters(found: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """By name; None where there is no signature to read, as of some functions that are written in C."""
    try:
        return dict(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        return None


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
