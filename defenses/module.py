"""A network that needs no class of its own: any torch.nn.Module that a suite can name.

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
"""Libraries whose models come with random weights, or with weights that the library downloads."""

DOWNLOADS = ("weights", "pretrained", "checkpoint")
"""Beginnings of the arguments by which these libraries download weights, or load files that may hold code."""


class ModuleReference(Importable):
    """A reference to code that makes a network: any `Importable`, or `timm:name` for a model of timm."""

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
        """The library among `LIBRARIES` that it refers to, or None."""
        return next((name for name in LIBRARIES if f"{self.module}.".startswith(f"{name}.")), None)


class Module(NormalizedNetwork):
    """Any network by the code that makes it: logits = network((x - mean) / std).

    The images keep the size that they have in the dataset; a network that needs another must resize them itself. The
    networks of torchvision and timm are made without weights, and nothing is downloaded, so that they need `weights`. A
    function of the user may load weights itself.

    Example:
        >>> import torch
        >>> Module("torch.nn:Flatten")(torch.rand(2, 1, 2, 5)).shape
        torch.Size([2, 10])

    Args:
        module: `package.module:name`, `./file.py:name` relative to the suite, or `timm:name`: a function or a class
            that returns a torch.nn.Module when it is called, or such a module itself.
        arguments: the arguments of the function or the class, by name.
        weights: a checkpoint of that network, in any layout that `harness weights` can read; nothing in it is executed.
        mean, std: normalisation by channel; both left out, that of a layer in the checkpoint or of the network's
            attribute `preprocessing`. Without these the network gets images as they are, in [0, 1].
        num_classes: the number of classes; left out, the number of logits.
        stochastic: whether two calls on one image may differ.

    Raises:
        UserError: there is no such code, it does not take the arguments or returns no torch.nn.Module, the weights do
            not fit, or two numbers of classes or two normalisations are given.
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
                f"'{reference.written}' has random weights, since nothing is downloaded from {reference.library}",
                remedy="Give a file of its weights with `weights:`",
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
    """The network that a reference makes. A network that other entries could name too is copied, since weights may be
    loaded into it.

    Raises:
        UserError: the code takes other arguments, or returns no torch.nn.Module.
        Failed: the code failed.
    """
    maker = reference.load()
    if isinstance(maker, Defense) or (inspect.isclass(maker) and issubclass(maker, Defense)):
        raise UserError(
            f"'{reference.written}' is a defense already, not a network",
            remedy=f"Write `type: {reference.written}` in place of `type: module`",
        )
    if isinstance(maker, nn.Module):
        if arguments:
            raise UserError(f"'{reference.written}' is a network already, and takes no arguments", remedy="Remove them")
        maker = partial(copy.deepcopy, maker)
    if not callable(maker):
        raise UserError(
            f"'{reference.written}' is {_kind(maker)}, neither a torch.nn.Module nor a function that returns one"
        )
    _refuse_downloads(reference, arguments)
    left_out = dict(_left_out(reference, maker))
    _refuse_unknown(reference, maker, arguments)
    try:
        network = maker(**left_out, **arguments)
    except UserError:
        raise
    except Exception as error:  # of the user's code, or of the library's
        raise Failed(f"'{reference.written}' failed: {one_line(error, at='')}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"'{reference.written}' returns {_kind(network)}, not a torch.nn.Module")
    return network


def _refuse_downloads(reference: ModuleReference, arguments: dict[str, Any]) -> None:
    named = next((name for name in arguments if name.startswith(DOWNLOADS)), None)
    if reference.library and named:
        raise UserError(
            f"'{named}' of '{reference.written}' would make {reference.library} load weights of its own",
            remedy="Remove it, and give the file of the weights with the defense's `weights:`",
        )


def _left_out(reference: ModuleReference, maker: Callable[..., Any]) -> Iterator[tuple[str, None]]:
    """Arguments of torchvision whose default may be weights to download, such as those of a backbone."""
    if reference.library == "torchvision":
        yield from ((name, None) for name in _parameters(maker) or () if name.startswith("weights"))


def _refuse_unknown(reference: ModuleReference, maker: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raises a UserError for an argument that is unknown or missing, as far as the signature of the code shows."""
    accepted = _parameters(maker)
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


def _parameters(maker: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The parameters by name; None where there is no signature, as in some functions that are written in C."""
    try:
        return dict(inspect.signature(maker).parameters)
    except (TypeError, ValueError):
        return None


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
