"""The meanings of arguments are read from docstrings as people write them."""

from __future__ import annotations

from harness.config.docstrings import meanings
from harness.config.introspect import describe

TEXT = """\
Does something.

Args:
    first, second: one
        text over two lines.
    third: with a list:
        key: this is no argument.

    fourth: after an empty line.

Raises:
    UserError: this is no argument either.
"""


def test_names_share_a_text_that_runs_until_the_next_name() -> None:
    assert meanings(TEXT) == {
        "first": "one text over two lines.",
        "second": "one text over two lines.",
        "third": "with a list: key: this is no argument.",
        "fourth": "after an empty line.",
    }


def test_a_docstring_without_the_section_has_no_meanings() -> None:
    assert meanings("") == meanings("Says.\n\nReturns:\n    a: b.") == {}


def test_an_argument_that_a_class_does_not_explain_is_explained_by_its_base() -> None:
    own, base = (
        {p.name: p.meaning for p in describe(cls.lower(), f"defenses.{cls.lower()}", cls).parameters}
        for cls in ("RDC", "DC")
    )
    assert own["timesteps"] == base["timesteps"] != ""
    assert own["eta"] and "eta" not in base
