"""A mistake on the command line is one paragraph in the words of all other mistakes, with a way out."""

from __future__ import annotations

import pytest

from harness import cli

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
    "new atack mine": "there is no kind of skeleton 'atack'. Did you mean 'attack'?",
    "list attak": "there is no list of 'attak'. Did you mean 'attacks'?",
    "list attack pgdd": "there is no attack 'pgdd'. Did you mean 'pgd'?",
    "list suites quickstart": "`harness show quickstart` does",
    "completion tcsh": "there is no shell 'tcsh'",
    "check a.yaml --dataset mnist": "--dataset is for a class, and a.yaml is a suite",
    "check a.yaml key=value": "'key=value' is for a class, and a.yaml is a suite",
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
