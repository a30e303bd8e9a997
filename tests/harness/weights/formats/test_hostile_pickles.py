"""Pickles whose value is far from their length in memory, on the stack, or in the time it takes to walk them."""

from __future__ import annotations

import struct

import pytest

from harness.weights.formats import limits
from helpers.weight_files import Opcodes, legacy_bytes

DEEP = 100_000
HUGE = struct.pack("<Q", 1 << 40)


@pytest.fixture
def module():
    """Pushes a module that holds the children pushed by the program given."""
    op = Opcodes

    def push(children: bytes = b"}") -> bytes:
        state = op.dict(_parameters=b"}", _buffers=b"}", _modules=children, _init_args=b")", _init_kwargs=b"}")
        meta = op.dict(type=op.text("class"), class_name=op.text("A"), state=state)
        return op.call(op.name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)

    return push


@pytest.fixture
def refuse_value(refuse):
    """Refuses a pickle {"ema": value}, by the program that pushes the value."""
    return lambda program, complaint: refuse(b"\x80\x04" + Opcodes.dict(ema=program) + b".", complaint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (b"]" * DEEP + b"a" * (DEEP - 1), "is of type list, not module"),
        (b")" + b"\x85" * DEEP, "is of type tuple, not module"),
        (b"})" + b"\x85" * DEEP + b"Ns", "str or int expected"),
        (b"\x8f()" + b"\x85" * DEEP + b"\x90", "str or int expected"),
        (b"ccollections\nOrderedDict\n(](()" + b"\x85" * DEEP + b"Neet", "damaged"),
        (b"ccollections\nOrderedDict\n(](()" + b"\x85" * DEEP + b"NtatR", "damaged"),
        (b"]q\x00(" + b"h\x00" * 1000 + b"e", "is of type list, not module"),
        (b"Nr\xff\xff\xff\x7f", "is of type NoneType, not module"),
        (b"j\xff\xff\xff\x7f", "damaged"),
        (b"\x8d" + HUGE + b"short", "damaged"),
        (b"\x8e" + HUGE + b"short", "damaged"),
        (b"\x96" + HUGE + b"short", "damaged"),
        (b"\x95" + HUGE + b"N", "is of type NoneType, not module"),
        (b"\x8b\xff\xff\xff\x7fshort", "damaged"),
        (b"L" + b"9" * DEEP + b"L\n", "a line that does not end"),
        (b"I" + b"9" * DEEP + b"\n", "a line that does not end"),
    ],
    ids=lambda value: repr(value[:8]) if isinstance(value, bytes) else "",
)
def test_no_container_or_length_overwhelms_the_reader(program, complaint, refuse_value):
    refuse_value(program, complaint)


def test_lists_that_double_are_not_walked(module, refuse_value):
    doubled = b"]"
    for level in range(60):
        doubled = b"](" + doubled + b"q%c" % level + b"h%c" % level + b"e"
    arguments = Opcodes.text("_init_kwargs") + Opcodes.dict(channel_mult=doubled)
    refuse_value(module().replace(Opcodes.text("_init_kwargs") + b"}", arguments), "no plain value")


def test_modules_that_double_are_walked_a_bounded_time(module, refuse_value, monkeypatch):
    monkeypatch.setattr(limits, "OPERATIONS", 50_000)
    program = module()
    for level in range(15):
        again = b"h" + bytes([level])
        program = module(Opcodes.dict(a=program + b"q" + bytes([level]), b=again, c=again))
    refuse_value(program, "more than 50,000 steps")


def test_a_chain_of_modules_is_walked_a_bounded_depth(module, refuse_value):
    program = module()
    for _ in range(30):
        program = module(Opcodes.dict(a=program))
    refuse_value(program, "nested too deeply, or contains itself")


def test_a_very_long_chain_of_modules_is_let_go_without_a_crash(refuse_value):
    op = Opcodes
    start = op.name("torch_utils.persistence", "_reconstruct_persistent_obj") + b"(}("
    start += op.text("type") + op.text("class") + op.text("class_name") + op.text("A") + op.text("state") + b"}("
    start += op.text("_parameters") + b"}" + op.text("_buffers") + b"}" + op.text("_modules") + b"}(" + op.text("a")
    refuse_value(start * 10_000 + b"N" + b"uuutR" * 10_000, "nested too deeply")


def test_a_module_that_contains_itself_is_refused(module, refuse_value):
    container = Opcodes.name("torch.nn.modules.container", "ModuleDict") + b")\x81q\x00"
    container += Opcodes.dict(_parameters=b"}", _buffers=b"}", _modules=Opcodes.dict(a=b"h\x00")) + b"b"
    refuse_value(module(Opcodes.dict(a=container)), "nested too deeply, or contains itself")


def test_one_storage_is_not_read_a_thousand_times(refuse_value):
    data = struct.pack("<q4f", 4, 1, 2, 3, 4)
    blob = Opcodes.blob(legacy_bytes(Opcodes.storage(4, b"N"), ("0",), data)) + b"q\x00"
    load = Opcodes.name("torch.storage", "_load_from_bytes")
    refuse_value(Opcodes.call(load, blob) + Opcodes.call(load, b"h\x00") * 1000 + b"\x86", "more bytes than it is long")


def test_a_list_of_passing_buffers_that_is_no_list_is_refused(module, refuse_value):
    lie = Opcodes.text("_non_persistent_buffers_set") + b"K\x05" + Opcodes.text("_init_args")
    refuse_value(module().replace(Opcodes.text("_init_args"), lie), "is of type int, not set")


@pytest.mark.parametrize("name", ["a.b", "a" * 1000, 3])
def test_a_name_that_no_module_has_is_refused(name, module, refuse_value):
    key = Opcodes.number(name) if isinstance(name, int) else Opcodes.text(name)
    refuse_value(module(b"}" + key + module() + b"s"), "no valid name")
