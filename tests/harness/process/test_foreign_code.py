"""Somebody else's exception is told by their own line, and never ends the program."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from harness.config.registry import find
from harness.errors import one_line
from harness.process import foreign_code, signals
from harness.process.foreign_code import Escape, contained, definition
from harness.randomness import fenced
from harness.threat import Linf

SOURCE = """
import json
import torch

from harness.defense import Defense
from harness.quantity import Quantity
from harness.threat import Linf


class Mine(Defense):
    def ours(self, x):
        return Linf(Quantity(0.1)).project(x, None)

    def library(self, x):
        return json.loads(x)

    def installed(self, x):
        return torch.ones(2).reshape(3)

    def theirs(self, x):
        return [1 / part for part in x]

    @torch.no_grad()
    def decorated(self, x):
        return 1 / x
"""


@pytest.fixture
def mine(tmp_path: Path) -> object:
    (tmp_path / "mine.py").write_text(SOURCE)
    return find("defenses", "./mine.py:Mine", tmp_path)()


def raised(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("ours", "return Linf"),
        ("library", "json.loads"),
        ("installed", "reshape(3)"),
        ("theirs", "1 / part"),
        ("decorated", "1 / x"),
    ],
)
def test_the_line_is_the_user_s_own_deepest_one(mine: object, function: str, text: str) -> None:
    error = raised(lambda: getattr(mine, function)([0]))
    number = next(n for n, found in enumerate(SOURCE.splitlines(), 1) if text in found)
    assert one_line(error).endswith(f"(mine.py:{number}, in {function})")


def test_a_file_below_the_current_folder_is_named_from_there(
    mine: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = raised(lambda: mine.theirs([0]))  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path.parent)
    assert f"({tmp_path.name}/mine.py:" in one_line(error)


def test_our_own_line_is_named_where_no_other_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    from attacks.clean import Clean

    monkeypatch.setattr(foreign_code, "theirs", lambda filename: False)  # this test is no part of the harness either
    error = raised(lambda: Clean().perturb(None))  # type: ignore[arg-type,call-arg]
    assert "test_foreign_code.py" in one_line(error), "the call itself fails, outside of our packages"
    tensor = torch.zeros(1, 1, 2, 2)
    assert "threat.py" in one_line(raised(lambda: Linf(0.1).project(tensor, tensor[0, 0, 0, :0])))  # type: ignore[arg-type]


def test_definitions_are_found_below_decorators_and_only_in_files_of_the_user_s(mine: object) -> None:
    assert definition(mine.decorated) == "mine.py:23, in decorated"  # type: ignore[attr-defined]
    assert definition(mine.forward) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "error", [SystemExit(0), SystemExit("bye"), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")]
)
def test_what_would_end_the_program_becomes_an_exception(error: BaseException) -> None:
    def end() -> None:
        with contained():
            raise error

    with signals.handled(), pytest.raises(Escape) as caught:
        end()
    assert one_line(caught.value).startswith(f"{type(error).__name__}: ") and "test_foreign_code.py" in one_line(
        caught.value
    )


@pytest.mark.parametrize("error", [ValueError("mine"), signals.Stopped(2)])
def test_exceptions_and_signals_go_through(error: BaseException) -> None:
    with signals.handled(), pytest.raises(type(error)), contained():
        raise error


def test_a_generator_that_is_closed_inside_ends_in_silence() -> None:
    def waiting() -> Iterator[int]:
        with contained():
            yield 1

    generator = waiting()
    assert next(generator) == 1
    generator.close()


def test_what_a_fenced_block_raises_is_contained_even_if_it_looks_like_an_end() -> None:
    with pytest.raises(Escape), fenced(0):
        raise GeneratorExit


def test_without_the_command_line_an_interrupt_is_a_signal_s() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), contained():
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
