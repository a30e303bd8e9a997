"""Models that were given in Python, as the defenses of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from harness.config.component import Component
from harness.config.given import Given
from harness.defense import Defense
from harness.errors import Place, UserError
from harness.weights.normalization import NormalizedNetwork

Model = nn.Module | Callable[[Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1] -> logits (N, K): a `Defense`, any other module, or a function."""


@dataclass(frozen=True)
class ModelFacts:
    """What a call says of models that are no `Defense`.

    Args:
        mean, std: one number per channel, or one for all: the model is given (x - mean) / std.
        stochastic: two calls on one image may differ.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    stochastic: bool = False

    @property
    def said(self) -> bool:
        return self.mean is not None or self.std is not None or self.stochastic


class Function(nn.Module):
    """A function in the place of a network. What it holds inside is neither moved between devices nor changed."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def defenses_of(model: Model | Mapping[str, Model], name: str | None, facts: ModelFacts, place: Place) -> list[Given]:
    """The defenses of a call, in the order given.

    Args:
        model: one, or several by name.
        name: of the one; left out, that of its class or function.
        place: the line of the call.

    Raises:
        UserError: something is no model, or a name is none.
    """
    if isinstance(model, Mapping):
        if name is not None or not model:
            fault = "the models have names already" if model else "there is no model"
            raise UserError(fault, remedy="Leave out `name`" if model else "Give one", where=place)
        return [_given(key, value, facts, place) for key, value in model.items()]
    return [_given(name, model, facts, place)]


def label_of(component: Component) -> str:
    """What a report calls a component: its name, since that is what the call said or what its class is called."""
    return component.label or component.name


def _given(name: str | None, model: Any, facts: ModelFacts, place: Place) -> Given:
    title = _title(model)
    if not callable(model) or isinstance(model, type):
        raise UserError(
            f"the model is {'the class ' + model.__name__ if isinstance(model, type) else f'of type {title}'}",
            remedy="Give a harness.Defense, a torch.nn.Module, or a function of images (N, C, H, W) in [0, 1]",
            where=place,
        )
    chosen = re.sub(r"[^A-Za-z0-9_.-]+", "_", title).strip("_.-") or "model" if name is None else name
    try:
        return Given.of("defenses", chosen, _defense(model, facts), title, place)
    except UserError as error:
        raise error.at(place) from error


def _defense(model: Any, facts: ModelFacts) -> Defense:
    if isinstance(model, Defense):
        if facts.said:
            raise UserError(
                f"{type(model).__name__} is a Defense, which says itself how it normalises and whether it is random",
                remedy="Leave out `mean`, `std` and `stochastic`",
            )
        return model
    network = model if isinstance(model, nn.Module) else Function(model)
    defense = NormalizedNetwork(network, facts.mean, facts.std)
    defense.stochastic = facts.stochastic
    return defense


def _title(model: Any) -> str:
    if isinstance(model, partial):
        return _title(model.func)
    return str(getattr(model, "__name__", type(model).__name__))
