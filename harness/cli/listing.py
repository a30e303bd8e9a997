"""`harness list`: everything that a suite or recipe can name. It reads source and YAML without slow imports."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from harness.cli.columns import Columns
from harness.config.introspect import describe
from harness.config.packaged_files import recipe_files, suite_files
from harness.config.registry import CONTRACTS, entries
from harness.errors import UserError, nearest
from harness.process.console import echo, new_console

if TYPE_CHECKING:
    from harness.config.introspect import Entry, Parameter

Row = dict[str, str]

EXPLAINED = ("defenses", "attacks", "certificates", "datasets", "networks", "trainers")
"""The kinds of which one name can be explained."""
FILES = ("suites", "recipes")
"""The kinds that are files, of which `harness show` explains a suite."""
KINDS = (*EXPLAINED, *FILES)
MORE = {
    "suites": "What a suite costs, and what it resolves to: harness show SUITE",
    "recipes": "Train a network by a recipe, or continue an interrupted training: harness train RECIPE",
}
"""What to do with one of these files."""

REFERENCE = re.compile(r"(?:(?:those of|of|the view of) [\w ]+, )?(?:as for|as in|see) `([\w.]+)`([.;].*)")
"""A text on an argument that names the class which explains it, and what it adds to that."""


def _kind(text: str) -> str:
    """A kind from its name, in the singular too."""
    found = text if text in KINDS else f"{text}s"
    if found not in KINDS:
        raise UserError(f"there is no list of '{text}'", remedy=nearest(text, KINDS))
    return found


def _names(context: typer.Context) -> list[str]:
    kind = context.params.get("what")
    return [entry.name for entry in entries(kind)] if kind in EXPLAINED else []


def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help=f"What to list: {', '.join(KINDS)}; everything if left out.",
            parser=_kind,
            autocompletion=lambda: list(KINDS),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One of them, with its arguments.", autocompletion=_names),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List everything that a suite or a recipe can name, or explain one of the names.

    Examples:

        harness list

        harness list attacks

        harness list attacks pgd
    """
    console = new_console()
    if what and name:
        entry = _find(what, name)
        if as_json:
            echo(json.dumps(_document(entry), indent=1))
        else:
            _explain(what, entry, console)
        return
    found = {kind: listing(kind) for kind in ([what] if what else KINDS)}
    if as_json:
        echo(json.dumps(found, indent=1))
        return
    for kind, rows in found.items():
        console.print(Columns(["name", "what it is"], [(row["name"], row["summary"]) for row in rows], title=kind), "")
    more = f"The arguments of one, with their meanings: harness list {what or EXPLAINED[0]} NAME"
    if what in FILES:
        more = MORE[what]
    console.print(more, markup=False, highlight=False, style="dim")


def listing(kind: str) -> list[Row]:
    """Lists rows with name, summary and arguments. kind: a name of `KINDS`."""
    if kind in FILES:
        return [_file(path, kind) for path in (suite_files() if kind == "suites" else recipe_files())]
    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "arguments": ", ".join(p.name + ("" if p.default is None else f"={p.default}") for p in entry.parameters),
        }
        for entry in entries(kind)
    ]


def _file(path: Path, kind: str) -> Row:
    """A row on a file: a suite's title, or what a recipe's card says of the network."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        content = None
    if isinstance(content, dict) and kind == "recipes":
        content = content.get("card")
    key, noun = {"suites": ("title", "suite"), "recipes": ("summary", "recipe")}[kind]
    summary = content.get(key, "") if isinstance(content, dict) else f"not a {noun}: YAML cannot be read"
    return {"name": str(path), "summary": str(summary), "arguments": ""}


def _find(kind: str, name: str) -> Entry:
    if kind not in EXPLAINED:
        does = f"`harness show {name}` does" if kind == "suites" else f"`harness train {name}` follows it"
        raise UserError(f"`harness list {kind}` explains no single one", remedy=does)
    known = {entry.name: entry for entry in entries(kind)}
    if name not in known:
        raise UserError(f"there is no {kind[:-1]} '{name}'", remedy=nearest(name, known))
    return known[name]


def meaning_of(parameter: Parameter) -> str:
    """What an argument means. Where its class refers to another, as in "as for `PGD`.", what that one says."""
    reference = REFERENCE.fullmatch(parameter.meaning)
    other = reference and _class_named(reference[1].rpartition(".")[2])
    found = next((p for p in other.parameters if p.name == parameter.name), None) if other else None
    if reference is None or found is None or found == parameter:
        return parameter.meaning
    return meaning_of(found).rstrip(".") + reference[2]


def _class_named(name: str) -> Entry | None:
    """A built-in class, or a contract, by its name in Python."""
    for contract in CONTRACTS.values():
        module, _, cls = contract.partition(":")
        if cls == name:
            return describe(name, module, cls)
    return next((entry for kind in EXPLAINED for entry in entries(kind) if entry.cls == name), None)


def _document(entry: Entry) -> dict[str, Any]:
    arguments = [
        {"name": p.name, "type": p.annotation, "default": p.default, "meaning": meaning_of(p)} for p in entry.parameters
    ]
    return {
        "name": entry.name,
        "summary": entry.summary,
        "about": entry.head,
        "arguments": arguments,
        "class": f"{entry.module}.{entry.cls}",
    }


def _explain(kind: str, entry: Entry, console: Console) -> None:
    """Prints the docstring of an entry's module, and its arguments."""
    console.print(Text(f"{kind[:-1]} {entry.name}\n", style="bold"))
    for paragraph in (entry.head or entry.summary).split("\n\n"):
        console.print(Text(_paragraph(paragraph, console.width) + "\n"), no_wrap=True, overflow="ignore")
    rows = [(p.name, "required" if p.default is None else p.default, meaning_of(p)) for p in entry.parameters]
    if rows:
        console.print(Columns(["argument", "default", "meaning"], rows), "")
    elif kind == "datasets":
        console.print("A suite names it under `dataset:`, with the images to choose.\n", markup=False)
    else:
        console.print("It takes no arguments.\n")
    console.print(f"Class {entry.module}.{entry.cls}", markup=False, highlight=False, style="dim", soft_wrap=True)


def _paragraph(text: str, width: int) -> str:
    """A paragraph wrapped at the width, unless it is laid out by hand, as equations and lists are."""
    by_hand = any(re.search(r"\S {2,}\S", line) or line.startswith((" ", "- ")) for line in text.splitlines())
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return text if by_hand else wrapper.fill(" ".join(text.split()))
