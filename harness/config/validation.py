"""Values from a YAML file against types, and what to say when they do not fit.

YAML's values are JSON's, so they are checked as strict JSON: a list may become a tuple, an integer a float and text a
path, but "3" is not 3, and neither 1 nor "yes" is true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from harness.config.yaml_file import Key, Node
from harness.errors import UserError, nearest
from harness.process.visible_text import is_hidden

Model = TypeVar("Model", bound=BaseModel)


def _seen(text: str) -> str:
    text = text.rstrip("\n")  # YAML's folded blocks end with one
    if hidden := next((character for character in text if is_hidden(character)), None):
        raise ValueError(f"it holds {hidden.encode('unicode_escape').decode()}, which readers would not see as it is")
    return text


Line = Annotated[str, AfterValidator(_seen)]
"""Text that people read in one line: a title, a label, a heading."""

_WORDS = {
    "Input should be": "it should be",
    "an object": "a mapping",
    "valid array": "list",
    "valid integer": "whole number",
    "a valid ": "a ",
}
_LONGEST = 80


def conform(node: Node, annotation: Any, subject: str, context: Mapping[str, Any] | None = None) -> Any:
    """The value as `annotation` understands it. Types of their own find the folder of the file in the context `base`.

    Args:
        subject: what the value is, such as "'steps' of attack 'linf'".
        context: further context.

    Raises:
        UserError: it does not fit.
        PydanticUserError: `annotation` is not a type that YAML can write.
    """
    try:
        adapter = TypeAdapter(annotation)
        found = {"base": node.place.file.parent, **(context or {})}
        return adapter.validate_json(json.dumps(node.plain()), strict=True, context=found)
    except ValidationError as error:
        raise _explain(error, node, subject, _model_in(annotation)) from error
    except UserError as error:
        raise error.about(subject, node.where) from error


def parse(model: type[Model], node: Node, what: str) -> Model:
    """A mapping as a model. what: its name in messages, such as "the file".

    Raises:
        UserError: it does not fit.
    """
    try:
        return model.model_validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError as error:
        raise _explain(error, node, what, model) from error


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _explain(error: ValidationError, root: Node, subject: str, model: type[BaseModel] | None) -> UserError:
    """One of the faults: the one that lies deepest, which of a union's alternatives is the one that was meant."""
    faults = [(*_locate(root, fault["loc"]), fault) for fault in error.errors(include_url=False)]
    path, node, fault = max(faults, key=lambda found: len(found[0]))
    whole = subject
    subject = f"'{_dotted(path)}' of {whole}" if path else whole
    if fault["type"] == "missing":
        return UserError(f"{subject} needs '{fault['loc'][-1]}'", remedy="Add it", where=node.where)
    if fault["type"] == "extra_forbidden":
        told = f"there is no key '{path[-1]}' in {_dotted(path[:-1]) or whole}"
        keys = _keys(model, path[:-1]) if model else []
        return UserError(told, remedy=nearest(str(path[-1]), keys), where=node.key)
    reasons = dict.fromkeys(_reason(other) for where, _, other in faults if where == path)
    if fault["loc"][-1:] == ("[key]",):
        return UserError(f"the key {shown(path[-1])} will not do: {_reason(fault)}", where=node.key)
    return UserError(f"{subject} is {shown(fault['input'])}: {', or '.join(reasons)}", where=node.where)


def _locate(root: Node, loc: tuple[Key, ...]) -> tuple[tuple[Key, ...], Node]:
    """The part of pydantic's path that exists in the file; it also names alternatives of unions."""
    node, path = root, []
    for key in loc:
        if child := node.child(key):
            node = child
            path.append(key)
    return tuple(path), node


def _reason(fault: ErrorDetails) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"]).removesuffix(".")
    if fault["type"] == "too_short":
        return "it must not be empty"
    text = fault["msg"]
    for word, plain in _WORDS.items():
        text = text.replace(word, plain)
    return text


def _dotted(path: tuple[Key, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _keys(model: type[BaseModel], path: tuple[Key, ...]) -> list[str]:
    """The keys that a mapping at `path` may have."""
    for key in path:
        fields = _aliased(model)
        model = (key in fields and _model_in(fields[str(key)])) or model
    return list(_aliased(model))


def _aliased(model: type[BaseModel]) -> Mapping[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
