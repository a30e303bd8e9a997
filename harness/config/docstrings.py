"""What a docstring says of each argument: its section `Args:`, as `name: text` or `name, name: text`."""

from __future__ import annotations

import re

SECTION = "Args:"
ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


def meanings(docstring: str) -> dict[str, str]:
    """The text on each argument, by name, without line breaks.

    Args:
        docstring: with its indentation removed, as `inspect.cleandoc` does.

    Example:
        >>> meanings("Sums.\\n\\nArgs:\\n    a, b: the terms.\\n    scale: of the sum,\\n        as a factor.")
        {'a': 'the terms.', 'b': 'the terms.', 'scale': 'of the sum, as a factor.'}
    """
    _, found, section = f"\n{docstring}".partition(f"\n{SECTION}\n")
    if not found:
        return {}
    lines: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break  # the next section begins
        lines.append(line)
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        entry = ENTRY.fullmatch(line[depth:]) if line[depth : depth + 1].strip() else None
        if entry:
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts
