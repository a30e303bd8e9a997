"""Checks values from a YAML file against types, and explains why a value does not fit.

The values of YAML are those of JSON, so they are checked as strict JSON: a list may become a tuple, an integer a float
and text a path, but "3" is not 3, and neither 1 nor "yes" is true.
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
        raise ValueError(f"it contains {hidden.encode('unicode_escape').decode()}, which is not visible to readers")
    return text


Line = Annotated[str, AfterValidator(_seen)]
"""Text that is displayed in one line: a title, a label, a heading."""

_WORDS = {
    "Input should be": "it should be",
    "an object": "a mapping",
    "valid array": "list",
    "valid integer": "whole number",
    "a valid ": "a ",
}
_LONGEST = 80


def conform(node: Node, annotation: Any, subject: str, context: Mapping[str, Any] | None = None) -> Any:
    """Converts a value to the type `annotation`. Custom types find the folder of the file in the context `base`.

    Args:
        subject: the name of the value in messages, such as "'steps' of attack 'linf'".
        context: further context.

    Raises:
        UserError: the value does not fit the type.
        PydanticUserError: values of the type cannot be written in YAML.
    """
    try:
        adapter = TypeAdapter(annotation)
        complete = {"base": node.place.file.parent, **(context or {})}
        return adapter.validate_json(json.dumps(node.plain()), strict=True, context=complete)
    except ValidationError as error:
        raise _explain(error, node, subject, _model_in(annotation)) from error
    except UserError as error:
        raise error.about(subject, node.where) from error


def parse(model: type[Model], node: Node, what: str) -> Model:
    """Converts a mapping to a model. what: the name of the mapping in messages, such as "the file".

    Raises:
        UserError: the mapping does not fit the model.
    """
    try:
        return model.model_validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError as error:
        raise _explain(error, node, what, model) from error


def shown(value: Any) -> str:
    """A value for use in a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _explain(error: ValidationError, root: Node, subject: str, model: type[BaseModel] | None) -> UserError:
    """Reports one of the faults: the deepest one, which belongs to the intended alternative of a union."""
    faults = [(*_locate(root, fault["loc"]), fault) for fault in error.errors(include_url=False)]
    path, node, fault = max(faults, key=lambda located: len(located[0]))
    whole = subject
    subject = f"'{_dotted(path)}' of {whole}" if path else whole
    if fault["type"] == "missing":
        return UserError(f"{subject} needs '{fault['loc'][-1]}'", remedy="Add it", where=node.where)
    if fault["type"] == "extra_forbidden":
        message = f"there is no key '{path[-1]}' in {_dotted(path[:-1]) or whole}"
        keys = _keys(model, path[:-1]) if model else []
        return UserError(message, remedy=nearest(str(path[-1]), keys), where=node.key)
    reasons = dict.fromkeys(_reason(other) for where, _, other in faults if where == path)
    if fault["loc"][-1:] == ("[key]",):
        return UserError(f"the key {shown(path[-1])} is not valid: {_reason(fault)}", where=node.key)
    return UserError(f"{subject} is {shown(fault['input'])}: {', or '.join(reasons)}", where=node.where)


def _locate(root: Node, loc: tuple[Key, ...]) -> tuple[tuple[Key, ...], Node]:
    """The part of pydantic's path that exists in the file: the path also names alternatives of unions."""
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
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
