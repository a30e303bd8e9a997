from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from harness.quantity import Quantity


class Entry(BaseModel):
    eps: Quantity


@given(st.integers(0, 10**6), st.integers(1, 10**6))
@settings(deadline=None, max_examples=50)
def test_a_fraction_keeps_its_notation_and_is_the_nearest_float(above: int, below: int) -> None:
    quantity = Quantity(f"{above}/{below}")
    assert quantity.text == str(quantity) == f"{above}/{below}"
    assert float(quantity) == above / below


@pytest.mark.parametrize(
    ("written", "value"),
    [("8/255", 8 / 255), (" 0.5 ", 0.5), ("1e-2 / 4", 0.0025), (0.1, 0.1), (3, 3.0), ("-.5", -0.5)],
)
def test_numbers_are_read_as_written(written: str | float, value: float) -> None:
    assert Quantity(written) == value


@pytest.mark.parametrize(
    "written",
    [
        *("", "eight", "8/", "8//255", "1/2/3", "0x10", "1/0", "1/0.0", "nan", "inf", "1e999", "1/1e999"),
        *("1e308/1e-308", "1/1e999999999", float("nan"), 10**400),
    ],
)
def test_what_is_no_finite_number_is_refused_as_a_value_error(written: str | float) -> None:
    with pytest.raises(ValueError, match=r"."):
        Quantity(written)


def test_a_quantity_survives_pickle_and_another_quantity() -> None:
    quantity = Quantity("8/255")
    assert pickle.loads(pickle.dumps(quantity)).text == "8/255"
    assert Quantity(quantity).text == "8/255"


def test_pydantic_reads_and_writes_the_notation() -> None:
    entry = Entry.model_validate({"eps": "8/255"})
    assert entry.eps == 8 / 255
    assert entry.model_dump(mode="json") == {"eps": "8/255"}


@pytest.mark.parametrize("written", [True, None, [1], "8/x", 10**400])
def test_pydantic_refuses_what_is_no_number(written: object) -> None:
    with pytest.raises(ValidationError):
        Entry.model_validate({"eps": written})
