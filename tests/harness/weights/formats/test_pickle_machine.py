"""The machine that reads pickles: plain data as Python reads it, and nothing else."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.weights.formats import limits, pickle_machine
from harness.weights.formats.limits import Budget
from harness.weights.formats.pickle_machine import OrderedTable, interpret
from helpers.examples import examples

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
)
KEYS = st.text(max_size=3) | st.integers(-(2**40), 2**40)
DATA = st.recursive(
    SCALARS | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(st.text(max_size=3), max_size=3)
    ),
    max_leaves=20,
)


def value_of(data, table=None, **more):
    return interpret(data, table or {}, Budget(len(data)), **more)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(100))
@given(data=DATA, protocol=st.sampled_from([4, 5]))
def test_plain_data_is_read_as_python_reads_it(data, protocol):
    written = pickle.dumps(data, protocol)
    assert value_of(written) == (data, len(written))


def test_one_list_in_two_places_stays_one_list():
    inner = [1]
    found, _ = value_of(pickle.dumps([inner, inner]))
    assert found[0] is found[1]


def test_several_pickles_in_a_row_are_read_one_by_one():
    first, second = pickle.dumps("first"), pickle.dumps("second")
    _, end = value_of(first + second)
    assert value_of(first + second, start=end) == ("second", len(first + second))


def test_an_ordered_dictionary_keeps_its_items_and_loses_its_metadata():
    state = OrderedDict(a=1)
    state._metadata = {"": {"version": 2}}
    assert value_of(pickle.dumps(state), {"collections.OrderedDict": OrderedTable})[0] == {"a": 1}


def test_a_global_that_is_not_in_the_table_is_named():
    with pytest.raises(UserError, match=r"`fractions\.Fraction`, which is code"):
        value_of(b"\x80\x02cfractions\nFraction\n.")


@pytest.mark.parametrize(
    "program",
    {
        "a constant is called": b"ca\nb\n)R.",
        "a number is called": b"K\x01)R.",
        "a state for a list": b"]}b.",
        "an unknown opcode": b"]\xff.",
        "an unknown protocol": b"\x80\x63N.",
        "nothing before the end": b".",
        "two values at the end": b"NN.",
        "a mark at the end": b"(N.",
        "an unset memo": b"h\x07.",
        "pops below the mark": b"N(\x85.",
        "a key without a value": b"}(K\x01u.",
        "a list as a key": b"}(]Nu.",
        "a tuple as a key": b"})Ns.",
        "a list in a set": b"\x8f(]\x90.",
        "an appended tuple": b")Na.",
        "a huge integer": b"\x8a\x09" + b"\x01" * 9 + b".",
        "a persistent id": b"NQ.",
        "a global without end": b"c" + b"a" * 10_000 + b".",
        "a name that is no text": b"NN\x93.",
    }.values(),
    ids=lambda program: repr(program[:12]),
)
def test_a_program_that_no_pickler_writes_is_damaged(program):
    with pytest.raises(UserError, match=r"damaged|opcode"):
        value_of(b"\x80\x02" + program, {"a.b": 1})


@pytest.mark.parametrize(
    "opcode", ["DUP", "POP", "POP_MARK", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "PERSID", "GET", "PUT"]
)
def test_opcodes_that_no_checkpoint_needs_are_not_known(opcode):
    assert opcode not in pickle_machine.OPERATIONS


def test_reading_stops_when_its_budget_is_spent(monkeypatch):
    monkeypatch.setattr(limits, "OPERATIONS", 1000)
    with pytest.raises(UserError, match="more than 1,000 steps"):
        value_of(b"\x80\x02" + b"N" * 2000 + b".")
