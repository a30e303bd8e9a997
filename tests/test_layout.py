"""The layout that CONTRIBUTING promises: no import circle, an engine without a terminal, few files at the top."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "attacks", "defenses")

Graph = Mapping[str, set[str]]
"""By name, the names of what it imports."""


def modules() -> dict[str, Path]:
    """The source file of each module, by its dotted name."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(node: ast.AST) -> Iterator[str]:
    """What a piece of code imports when it runs, inside functions too; imports for the type checker do not run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.module, f"a relative import, line {child.lineno}"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield child.module
        yield from imported(child)


def import_graph() -> Graph:
    """Between modules. `from a.b import c` is an import of the module a.b.c if there is one, and else of a.b."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found = {target for target in imported(ast.parse(path.read_text())) if target in known}
        graph[name] = {target for target in found if not any(other.startswith(f"{target}.") for other in found)}
        graph[name].discard(name)
    return graph


def unit(module: str) -> str:
    """What a newcomer sees as one: a file or folder of harness/, or the whole of another package."""
    return ".".join(module.split(".")[: 2 if module.startswith("harness") else 1])


def between_units(graph: Graph) -> Graph:
    units: dict[str, set[str]] = {unit(module): set() for module in graph}
    for module, targets in graph.items():
        units[unit(module)] |= {unit(target) for target in targets} - {unit(module)}
    return units


def circle(graph: Graph) -> list[str]:
    """What is left when whatever imports nothing of the rest is taken away, again and again."""
    left = {name: set(targets) for name, targets in graph.items()}
    while ends := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in ends}
    return sorted(left)


def test_a_circle_is_seen_and_what_only_leads_to_one_end_is_none() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_inside_functions_count_and_those_for_the_type_checker_do_not() -> None:
    code = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from c.d import e\n"
    assert set(imported(ast.parse(code))) == {"a", "c.d", "c.d.e"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    assert "harness.results.store" in graph["harness.evaluation.run"]
    assert circle(graph) == []


def test_no_packages_import_each_other_in_a_circle() -> None:
    units = between_units(import_graph())
    assert {"harness.errors", "harness.results", "attacks"} <= units.keys()
    assert circle(units) == []


def test_the_engine_imports_no_command_line_and_no_attack_or_defense() -> None:
    for module, targets in import_graph().items():
        if not unit(module).startswith("harness") or unit(module) in ("harness.cli", "harness.__main__"):
            continue
        wrong = [target for target in targets if unit(target) in ("harness.cli", "attacks", "defenses")]
        assert not wrong, f"{module} imports {wrong}"


def test_only_the_command_line_reports_and_the_console_know_a_terminal() -> None:
    for module, path in modules().items():
        if module.startswith(("harness.cli", "harness.reporting", "harness.process.console")):
            continue
        found = {target.partition(".")[0] for target in imported(ast.parse(path.read_text()))}
        assert not found & {"rich", "typer"}, module


def test_the_top_folder_holds_few_files() -> None:
    assert len([path for path in (ROOT / "harness").iterdir() if path.is_file()]) <= 15
