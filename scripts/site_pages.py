"""The pages of the documentation site that are made from the code: nothing in them is written twice.

    index.md, contributing.md, changelog.md     README, CONTRIBUTING and CHANGELOG
    reference/suite.md                          the keys of a suite, from `harness.suite.schema`
    reference/results.md                        records and the manifest, from `harness.results`
    reference/defenses.md, attacks.md           every defense and attack: what it is, its source, its arguments
    reference/recipe.md, trainers.md            the keys of a recipe, from `harness.training.recipe`; every trainer

`python scripts/site_pages.py FOLDER` writes them; `make docs` has mkdocs add them while it builds.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from harness.config.introspect import Entry
from harness.config.registry import entries
from harness.results.manifest import Manifest
from harness.results.record import SCHEMA, Record
from harness.suite.schema import Suite
from harness.training.recipe import Recipe

ROOT = Path(__file__).parents[1]

COPIED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")


def pages() -> dict[str, str]:
    """The generated pages, by their paths in the site."""
    copied = {page: (ROOT / file).read_text() for file, page in COPIED.items()}
    return {
        **{page: relinked(text, PurePosixPath("."), PurePosixPath(page)) for page, text in copied.items()},
        "reference/suite.md": _suite(),
        "reference/results.md": _results(),
        "reference/defenses.md": _components("defenses", "Defenses"),
        "reference/attacks.md": _components("attacks", "Attacks"),
        "reference/recipe.md": _recipe(),
        "reference/trainers.md": _components("trainers", "Trainers"),
    }


def relinked(text: str, folder: PurePosixPath, page: PurePosixPath) -> str:
    """Links of a file in `folder` of the repository, for the page of the site that it becomes.

    A link to a file that is part of the site leads there; any other becomes the path, as text.
    """

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = PurePosixPath(_normal(folder / target))
        place = COPIED.get(str(path)) or (str(path.relative_to("docs")) if path.parts[:1] == ("docs",) else None)
        if place is None or not ((ROOT / path).is_file()):
            return words if words == str(path) or words.strip("`") == str(path) else f"{words} (`{path}`)"
        return f"[{words}]({'../' * len(page.parts[:-1])}{place}{anchor})"

    return LINK.sub(link, text)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ".."):
            parts.append(part)
    return "/".join(parts)


def _suite() -> str:
    lines = [
        "# The keys of a suite",
        "",
        "A suite is a YAML file; any other key is refused, with its line and the nearest valid name. `extends: FILE`,",
        "at the top, builds it on another suite; a key that starts with `x-` is ignored, as a place for YAML anchors.",
        "`harness show SUITE --full` prints a suite with everything filled in.",
        "",
    ]
    return "\n".join([*lines, *_model("Suite", Suite, set())])


def _recipe() -> str:
    lines = [
        "# The keys of a recipe",
        "",
        "A recipe is a YAML file for `harness train`; any other key is refused, with its line and the nearest valid",
        "name. Those that come with the package: `harness list recipes`.",
        "",
    ]
    return "\n".join([*lines, *_model("Recipe", Recipe, set())])


def _results() -> str:
    lines = [
        "# Records and the manifest",
        "",
        "A results directory holds `run.json`, the manifest, and for each pairing of a defense and an attack a folder",
        "`cells/DEFENSE/ATTACK` with shards: a Parquet file of records, one for each image, and a safetensors file of",
        "adversarial images (`images`, float32, N x C x H x W, and `flow`, N x H x W x 2, where pixels were moved).",
        "",
        "## The record of an image",
        "",
        *_fenced(Record.__doc__ or ""),
        "",
        *_rows(("column", "type"), [(f"`{field.name}`", f"`{field.type}`") for field in SCHEMA]),
        "",
        "The metadata of a records file has the `schema_version`, the key of the pairing (`cell`), the bounds of the",
        "`shard`, and hashes of the images (`images_sha256`) and of the records (`columns_sha256`).",
        "",
        "## run.json",
        "",
        "Every field has a largest size, and any other key is refused: a manifest may come from somebody else.",
        "`seal` is the sha256 of all other fields. `resolved` is the suite as it was understood.",
        "",
    ]
    return "\n".join([*lines, *_model("Manifest", Manifest, set(), level=3)])


def _model(name: str, model: type[BaseModel], seen: set[type[BaseModel]], level: int = 2) -> Iterator[str]:
    """A section on a model, and one on each model inside it."""
    seen.add(model)
    inner: dict[str, type[BaseModel]] = {}
    rows = []
    for field, info in model.model_fields.items():
        found = list(_models(info.annotation))
        inner |= {each.__name__: each for each in found if each not in seen}
        kind = " or ".join(f"[{each.__name__}](#{each.__name__.lower()})" for each in found) or _type(info.annotation)
        default = "required" if info.is_required() else _default(info.get_default(call_default_factory=True))
        rows.append((f"`{info.alias or field}`", kind, default, info.description or ""))
    yield f"{'#' * level} {name}"
    yield ""
    if text := (model.__doc__ or "").strip() if "__doc__" in vars(model) else "":
        yield from (*_fenced(text), "")
    yield from _rows(("key", "type", "default", "meaning"), rows)
    yield ""
    for each in inner.values():
        if each not in seen:
            yield from _model(each.__name__, each, seen, level)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _type(annotation: Any) -> str:
    """A type without its bounds, such as `list of int or None`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if origin is types.UnionType or str(origin) == "typing.Union":
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments if argument is not type(None)))
    if str(origin) == "typing.Literal":
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return plain.get(annotation) or getattr(annotation, "__name__", "any").lower()


def _default(value: Any) -> str:
    if value is None or value in ((), {}) or isinstance(value, BaseModel):
        return ""
    return f"`{value}`" if value != "" else ""


def _components(kind: str, title: str) -> str:
    found = sorted(entries(kind), key=lambda entry: entry.name)
    lines = [
        f"# {title}",
        "",
        f"What `harness list {kind}` lists; `harness list {kind} NAME` explains one in the terminal. The source of",
        "each that has one is in its text: the paper, the arXiv number, or the code that it follows.",
        "",
        *_rows(("name", "what it is"), [(f"[`{e.name}`](#{_anchor(e.name)})", _inline(e.summary)) for e in found]),
        "",
    ]
    for entry in found:
        lines += _component(entry)
    return "\n".join(lines)


def _component(entry: Entry) -> list[str]:
    lines = [f"## `{entry.name}` {{: #{_anchor(entry.name)} }}", "", _inline(entry.summary), ""]
    lines += [f"Class `{entry.module}.{entry.cls}`.", ""]
    lines += [*_fenced(entry.head), ""] if entry.head else []
    rows = [
        (f"`{p.name}`", "required" if p.default is None else f"`{p.default}`", _inline(p.meaning))
        for p in entry.parameters
    ]
    return [*lines, *_rows(("argument", "default", "meaning"), rows), ""] if rows else lines


def _anchor(name: str) -> str:
    return f"the-{name.replace('_', '-')}"


def _fenced(text: str) -> list[str]:
    """A docstring as it is: its formulas and columns need a font of one width."""
    import inspect

    return ["```text", *inspect.cleandoc(text).splitlines(), "```"]


def _inline(text: str) -> str:
    """A docstring's sentence in Markdown: what is not in backticks has no commands."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]|\\])", r"\\\1", part) for part in parts)


def _rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in row)} |" for row in rows)]


if __name__ == "__main__":
    for name, page in pages().items():
        target = Path(sys.argv[1]) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page)
