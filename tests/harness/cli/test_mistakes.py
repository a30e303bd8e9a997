"""A mistake on the command line is one paragraph in the words of all other mistakes, with a way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from harness import cli
from harness.cli.main import app

MISTAKES = {
    "run": "`harness run` needs SUITE. A suite file",
    "run a.yaml --limit 0": "--limit is '0': it should be greater than or equal to 1",
    "run a.yaml --limit=x": "--limit is 'x': it should be a whole number",
    "run a.yaml --limt 3": "`harness run` has no option '--limt'. Did you mean '--limit'?",
    "run a.yaml --only": "the option '--only' of `harness run` needs a value",
    "run a.yaml b": "`harness run` takes no argument 'b'",
    "run a.yaml --engine locl": "there is no engine 'locl'. Did you mean 'local'?",
    "run a.yaml --gpu-share 3": "--gpu-share is '3': it should be less than or equal to 1",
    "rnu": "`harness` has no command 'rnu'. Did you mean 'run'?",
    "weights fech": "`harness weights` has no command 'fech'. Did you mean 'fetch'?",
    "weights fetch": "`harness weights fetch` needs NAME|SUITE|URL",
    "compare a --format htm": "there is no format of comparisons 'htm'",
    "report a --format htm": "there is no report format 'htm'. Did you mean 'html'?",
    "new": "`harness new` needs defense|attack|certificate. What to write.",
    "new defense": "`harness new` needs NAME. Lower case, such as `mine`",
    "run --limit 3": "`harness run` needs SUITE. A suite file",
    "new atack mine": "there is no kind of skeleton 'atack'. Did you mean 'attack'?",
    "list attak": "there is no list of 'attak'. Did you mean 'attacks'?",
    "list attack pgdd": "there is no attack 'pgdd'. Did you mean 'pgd'?",
    "list suites quickstart": "`harness show quickstart` does",
    "completion tcsh": "there is no shell 'tcsh'",
    "check a.yaml --dataset mnist": "--dataset is for a class, and a.yaml is a suite",
    "check a.yaml key=value": "'key=value' is for a class, and a.yaml is a suite",
    "run a.yaml --limit 3 --limit=4": "`harness run` was given --limit 2 times, and it has one value",
    "run a.yaml --no-retry-errors --retry-errors": "was given --retry-errors/--no-retry-errors 2 times",
    "eot a.yaml --draws 1,2 --draws 3": "`harness eot` was given --draws 2 times",
    "--cache a --cache b list": "`harness` was given --cache 2 times",
    "check undefended --only x": "--only is for a suite, and undefended is none",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_on_the_command_line_ends_with_status_2_and_what_to_do(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    shown = capsys.readouterr()
    assert ended.value.code == 2 and not shown.out
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert MISTAKES[line] in shown.err
    assert "explains it." in shown.err or "Did you mean" in shown.err or shown.err.count(". ") or "--set" in shown.err


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{path} {name}".strip())


OPTIONS = [
    (path, option)
    for path, command in commands(typer.main.get_command(app))
    for option in command.params
    if option.param_type_name == "option" and not (option.is_flag and not option.secondary_opts)
]


@pytest.mark.parametrize(("path", "option"), OPTIONS, ids=[f"{path} {option.opts[-1]}" for path, option in OPTIONS])
def test_no_value_of_an_option_is_dropped_in_silence(
    path: str, option: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option takes as many values as it is given, or refuses the second."""
    if option.multiple:
        assert "several times" in option.help or "repeated" in option.help
        return
    one = [option.opts[0]] if option.is_flag else [option.opts[0], "1"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*path.split(), *one, *one])
    assert ended.value.code == 2
    assert f"`{f'harness {path}'.strip()}` was given" in (shown := capsys.readouterr().err) and option.opts[-1] in shown
