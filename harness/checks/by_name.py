"""A class that somebody names on the command line, built with its arguments, and checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from harness import datasets
from harness.checks.attack import NearestMean, check_attack
from harness.checks.certificate import check_certificate
from harness.checks.defense import check_defense
from harness.checks.finding import Finding
from harness.checks.fit import refuse_unfit
from harness.config import registry
from harness.config.component import bind, check_budget
from harness.config.signature import parameters
from harness.config.yaml_file import Node, parse_value
from harness.errors import Place, UserError

IMAGES = 8
COUNTED = 256
"""Images on which a defense's accuracy is measured, which takes about as long as all the other checks."""

DEFAULT = "digits"
"""The dataset where neither the user nor a card names one: it comes with the package."""

FITTED = 1000
"""Images from which the classifier that attacks are tried on takes its class means."""


def check_class(
    spec: str,
    base: Path,
    arguments: Iterable[str] = (),
    *,
    dataset: str | None = None,
    path: Path | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> list[Finding]:
    """Whether a defense, an attack or a certificate keeps its contract, on a few images of a dataset's test split.

    Args:
        spec: as a suite's `type` would name it: `./file.py:Class`, `package.module:Class` or a built-in name.
        base: the folder that relative paths start from.
        arguments: of its constructor, `key=value` each, the value as in a suite.
        dataset: whose images; if left out, the dataset of the defense's card, or else `DEFAULT`.
        path: the folder, zip or .npz file of the images.

    Raises:
        UserError: there is no such class, it refuses the arguments or needs others, the dataset is not there, or its
            images have not the shape that the defense was made for.
    """
    kind, cls = _find(spec, base)
    built = _build(kind, spec, cls, base, list(arguments))
    images = _images(built, dataset, path, base)
    x, y = images.images[:FITTED].to(device), images.labels[:FITTED].to(device)
    if kind == "defenses":
        defense = built.to(device).eval().requires_grad_(False)
        refuse_unfit(defense, x, images.name, cls.__name__, chosen=bool(dataset or path))
        return check_defense(defense, x[:COUNTED], y[:COUNTED], dataset=images.name, disagreement=images.disagreement)
    if kind == "certificates":
        return check_certificate(built, x[:IMAGES], y[:IMAGES])
    y = y.unique(return_inverse=True)[1]
    judge = NearestMean(x, y).to(device).eval()
    close = judge.margins(x, y).argsort()[:IMAGES]
    return check_attack(built, judge, x[close], y[close])


def _images(built: Any, dataset: str | None, path: Path | None, base: Path) -> datasets.Dataset:
    """The images for a class, see `check_class`."""
    of_path = None if path is None else "npz" if path.suffix == ".npz" else "folder"
    of_card = getattr(built, "expected_dataset", None)
    try:
        return datasets.load(
            dataset or of_path or of_card or DEFAULT,
            path=path,
            base=base,
            rows=lambda count: list(range(min(count, FITTED))),
        )
    except UserError as error:
        if dataset or path or not of_card:
            raise
        raise UserError(
            f"its weights were measured on '{of_card}': {error.message}",
            remedy="Name other images, with --dataset NAME or --path FOLDER",
        ) from error


def _find(spec: str, base: Path) -> tuple[str, type[Any]]:
    faults = []
    for kind in ("certificates", "defenses", "attacks"):  # a certificate is an attack too
        try:
            return kind, registry.find(kind, spec, base)
        except UserError as error:
            faults.append(error)
    _, first, second = faults
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
        return parse_value(value, here)
    except UserError as error:
        raise UserError(f"'{key}': {error.message}", remedy=error.remedy) from error
