"""No file ends in a traceback, whatever accident it had."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.suite import load_suite
from helpers.examples import examples
from helpers.planned import SUITE

# fmt: off
SCALARS = st.sampled_from([
    "8", "-1", "0", "1e9", "9" * 400, "'3'", ".nan", "8/0", "2024-13-45", "true", "null", "~", "[]", "{}", "[1, 2]",
    "{a: 1}", "*typed", "*linf", "&a", "&a x", "!!int", "!!int x", "|", "?", "-", "- x", "'", '"', "'\0'", '"\\0"', "é",
    "\u2028", "linf", "plain", "pgd", "dc", "os:path", "./fakes.py:Ball", "./fakes.py:Loose", "./nofile.py:X",
    "nowhere.yaml", "mutant.yaml",
])


# fmt: on
KEYS = st.sampled_from(["extends", "defaults", "<<", "x-y", "pairings", "type", "with", "path", "limit"])


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """The suite after one to three accidents."""
    lines = SUITE.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        accident = draw(st.integers(0, 6))
        if accident == 0 and len(lines) > 1:
            del lines[at]
        elif accident == 1:
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif accident == 2:
            lines[at] = " " * draw(st.integers(0, 6)) + lines[at].lstrip()
        elif accident == 3:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {draw(SCALARS)}"
        elif accident == 4:
            words = lines[at].split(" ")
            words[draw(st.integers(0, len(words) - 1))] = draw(SCALARS)
            lines[at] = " ".join(words)
        elif accident == 5:
            cut = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:cut] + draw(st.text(max_size=3)) + lines[at][cut:]
        else:
            lines.insert(at, " " * draw(st.integers(0, 4)) + f"{draw(KEYS)}: {draw(SCALARS)}")
    return "\n".join(lines)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(400))
@given(text=mutations())
def test_no_mutation_of_a_suite_ends_in_anything_but_a_plan_or_a_users_error(folder: Path, text: str) -> None:
    path = folder / "mutant.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = load_suite(path)
    except UserError as error:
        assert "mutant.yaml" in str(error)
        assert "Traceback" not in str(error)
    else:
        assert found.cells


@settings(deadline=None, max_examples=examples(100))
@given(content=st.binary(max_size=60))
def test_no_bytes_end_in_anything_but_a_users_error(folder: Path, content: bytes) -> None:
    (folder / "bytes.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"bytes\.yaml"):
        load_suite(folder / "bytes.yaml")
