"""`harness new`: writes a working defense, attack or certificate to start from."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path

from harness.errors import UserError


def write(kind: str, name: str, folder: Path) -> tuple[Path, str]:
    """Writes `NAME.py` from the template of its kind, and returns its path and the name of its class.

    Args:
        kind: "defense", "attack" or "certificate".
        name: a Python name in lower case; `noise_filter` becomes noise_filter.py with the class NoiseFilter.

    Raises:
        UserError: the name is not valid, the file exists, or the folder cannot be written to.
    """
    cls = _class_name(name, kind)
    path = folder / f"{name}.py"
    template = resources.files("harness.cli") / "templates" / f"{kind}.py.txt"
    text = template.read_text(encoding="utf-8").replace("CLASS", cls).replace("NAME", name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} exists already", remedy="Choose another name, or remove it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", remedy="Choose another folder") from error
    return path, cls


def _class_name(name: str, kind: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"'{name}' cannot be the name of a file with a class", remedy=_suggestion(name, kind))
    return "".join(word.capitalize() for word in name.split("_"))


def _suggestion(name: str, kind: str) -> str:
    words = re.findall(r"[a-z0-9]+", name.removesuffix(".py").lower())
    better = "_".join(words).lstrip("0123456789_")
    if not better or keyword.iskeyword(better):
        better = f"my_{kind}"
    return f"Use lower case letters, digits and underscores, such as {better}"
