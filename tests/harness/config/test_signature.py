"""What a constructor's annotations say about entries inside an entry."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from harness.config.signature import entries_inside, parameters
from harness.suite.nested import InnerAttack, InnerDefense


class Taking:
    def __init__(
        self,
        one: InnerDefense,
        perhaps: InnerDefense | None,
        many: list[InnerAttack],
        perhaps_many: list[InnerAttack] | None,
        number: int | None,
        numbers: list[int],
        from_: str = "",
        *others: Any,
    ) -> None: ...


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one", ("defenses", False)),
        ("perhaps", ("defenses", False)),
        ("many", ("attacks", True)),
        ("perhaps_many", ("attacks", True)),
        ("number", (None, False)),
        ("numbers", (None, False)),
    ],
)
def test_an_argument_is_an_entry_a_list_of_them_or_neither(name: str, expected: tuple[str | None, bool]) -> None:
    hint = get_type_hints(Taking.__init__, include_extras=True)[name]
    assert entries_inside(hint) == expected


def test_a_suite_writes_the_names_that_python_keeps_for_itself() -> None:
    assert list(parameters(Taking))[-1] == "from"
