"""A class that somebody names on the command line, built with its arguments, and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from harness import datasets
from harness.checks.attack import NearestMean, check_attack
from harness.checks.defense import check_defense
from harness.checks.finding import Finding
from harness.config import registry, yaml_file
from harness.config.component import bind, check_budget
from harness.config.signature import parameters
from harness.config.yaml_file import Node
from harness.errors import Place, UserError

IMAGES = 8
COUNTED = 256
"""Images on which a defense's accuracy is measured, which takes about as long as all the other checks."""

FITTED = 1000
"""Images from which the classifier that attacks are tried on takes its class means."""


def check_class(
    spec: str,
    base: Path,
    arguments: Iterable[str] = (),
    *,
    dataset: str = "digits",
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> list[Finding]:
    """Whether a defense or an attack keeps its contract, on a few images of a dataset's test split.

    Args:
        spec: as a suite's `type` would name it: `./file.py:Class`, `package.module:Class` or a built-in name.
        base: the folder that relative paths start from.
        arguments: of its constructor, `key=value` each, the value as in a suite.

    Raises:
        UserError: there is no such class, it refuses the arguments or needs others, or the dataset is not there.
    """
    kind, cls = _find(spec, base)
    built = _build(kind, spec, cls, base, list(arguments))
    images = datasets.load(dataset)
    x, y = images.images[:FITTED].to(device), images.labels[:FITTED].to(device)
    if kind == "defenses":
        defense = built.to(device).eval().requires_grad_(False)
        return check_defense(defense, x[:COUNTED], y[:COUNTED], dataset=dataset, disagreement=images.disagreement)
    y = y.unique(return_inverse=True)[1]
    judge = NearestMean(x, y).to(device).eval()
    close = judge.margins(x, y).argsort()[:IMAGES]
    return check_attack(built, judge, x[close], y[close])


def _find(spec: str, base: Path) -> tuple[str, type[Any]]:
    faults = []
    for kind in ("defenses", "attacks"):
        try:
            return kind, registry.find(kind, spec, base)
        except UserError as error:
            faults.append(error)
    first, second = faults
    if first.message == second.message:
        raise first
    raise UserError(f"neither a defense ({first.message}) nor an attack ({second.message})", remedy=second.remedy)


def _build(kind: str, spec: str, cls: type[Any], base: Path, arguments: list[str]) -> Any:
    given = dict(_pair(argument) for argument in arguments)
    accepted = parameters(cls)
    if needed := [name for name, p in accepted.items() if p.default is p.empty and name not in given]:
        example = " ".join(["harness check", spec, *(f"{name}=VALUE" for name in needed)])
        raise UserError(f"{cls.__name__} needs {', '.join(needed)}", remedy=f"Give it after the class: {example}")
    here = Place(base / "command line")
    entry = {"type": Node(spec, here, here), **{key: _node(key, value, here) for key, value in given.items()}}
    try:
        component = bind(kind, cls.__name__, Node(entry, here, here))
        if kind == "attacks":
            check_budget(component)
        return component.build()
    except UserError as error:
        where = None if error.where and error.where.file == here.file else error.where
        raise UserError(error.message, remedy=error.remedy, where=where) from error


def _pair(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not key.isidentifier():
        raise UserError(f"'{argument}' is not of the form key=value", remedy="Write, for example, weights=digits-cnn")
    return key, value


def _node(key: str, value: str, here: Place) -> Node:
    """A value as a suite would understand it."""
    try:
        (node,) = yaml_file.parse(f"{json.dumps(key)}: {value}", here.file).root.value.values()
    except (UserError, ValueError) as error:
        raise UserError(
            f"'{value}' cannot be the value of '{key}'", remedy="Write it as in a suite, in one line of YAML"
        ) from error
    return Node(node.value, here, here)
