"""Interprets a pickle as data: it knows the few opcodes that checkpoints use, and imports nothing.

A pickle is a program, which Python's own unpickler runs. This interpreter executes only the opcodes that build numbers,
strings and containers, and looks up each global in a table that the caller gives. A pickle can call no functions but
those in the table. Any other global ends the reading with an error that names it. The cost of an opcode is bounded by
the number of bytes that it takes in the file.
"""

from __future__ import annotations

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from harness.errors import UserError
from harness.weights.formats.limits import Budget

LONGEST_LINE = 512
PROTOCOLS = range(2, 6)
SCALARS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NO_CODE = "Nothing in it was run. Use the file that the authors publish, or save the network's state_dict alone"


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to, and the function or constant that the table has for it."""

    name: str
    meaning: Any


class Buildable(ABC):
    """An object that accepts a state from the opcode BUILD of a pickle."""

    @abstractmethod
    def build(self, state: Any) -> None:
        """Takes the state, and raises TypeError or ValueError if it is not a valid state for this object."""


class OrderedTable(dict[str | int, Any], Buildable):
    """An OrderedDict in the pickle. The `_metadata` (versions of modules) of a state dict is ignored."""

    def __init__(self) -> None:
        super().__init__()

    def build(self, state: Any) -> None:
        if not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise ValueError("an ordered dictionary with unknown attributes")


class _Window:
    """The file that pickletools reads from. The length of its lines is limited, and reads end with the data."""

    def __init__(self, data: bytes | mmap, position: int) -> None:
        self.data, self.position = data, position

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes:
        block = self.data[self.position : self.position + count]
        self.position += len(block)
        return block

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.position, self.position + LONGEST_LINE)
        if end < 0:
            raise ValueError("a line that does not end")
        return self.read(end + 1 - self.position)


def interpret(
    data: bytes | mmap,
    table: Mapping[str, Any],
    budget: Budget,
    *,
    start: int = 0,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Returns the value of one pickle, and the position of the first byte after it.

    Args:
        data: the bytes that contain the pickle.
        table: the meaning of each global by its full name. A function is called when the pickle calls the global. It
            must check its arguments, and raise TypeError or ValueError if they are not valid.
        budget: the remaining budget of the file.
        start: the position in `data` of the first byte of the pickle.
        persistent: the function that turns a persistent id into a value. Without it, the pickle must contain no
            persistent id.

    Raises:
        UserError: the pickle refers to another global, is damaged, or uses an opcode that no checkpoint needs.
    """
    machine, window = _Machine(table, persistent), _Window(data, start)
    try:
        for opcode, argument, _ in pickletools.genops(window):  # type: ignore[arg-type]
            budget.work()
            machine.step(opcode.name, argument)
        return machine.result(), window.position
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(
            f"The pickle in the file is damaged at byte {window.position:,}: {str(error)[:200]}",
            remedy="Fetch the file again; the download may have been cut short",
        ) from error


class _Machine:
    """The state of the interpreter: its stack, the stacks below the marks, and the memo."""

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.table, self.persistent = table, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in SCALARS:
            self.stack.append(_bounded(argument))
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self._tuple(TUPLES[name])
        elif operation := OPERATIONS.get(name):
            operation(self, argument)
        else:
            raise UserError(f"The pickle in the file uses the opcode {name}, which no checkpoint needs", remedy=NO_CODE)

    def result(self) -> Any:
        (value,) = self.stack
        if self.below:
            raise ValueError("a mark is left")
        return value

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _tuple(self, length: int | None) -> None:
        if length is None:
            items = self._pop_mark()
        else:
            items = self.stack[-length:]
            if len(items) < length:
                raise ValueError("the stack is too short")
            del self.stack[-length:]
        self.stack.append(tuple(items))

    def _append(self, items: list[Any]) -> None:
        _exactly(self.stack[-1], list).extend(items)

    def _add(self, items: list[Any]) -> None:
        _exactly(self.stack[-1], set).update(map(_key, items))

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        _exactly(self.stack[-1], dict, OrderedTable).update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def _put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def _global(self, name: str) -> None:
        if name not in self.table:
            raise UserError(f"The file asks for `{name[:100]}`, which is code and not data", remedy=NO_CODE)
        self.stack.append(Global(name, self.table[name]))

    def _stack_global(self, _: None) -> None:
        module, name = self._pop(2)
        self._global(f"{_exactly(module, str)}.{_exactly(name, str)}")

    def _call(self, _: None) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, Global) or not callable(function.meaning):
            raise ValueError("a call of something that is no function")
        self.stack.append(function.meaning(*_exactly(arguments, tuple)))

    def _build(self, _: None) -> None:
        target, state = self._pop(2)
        if not isinstance(target, Buildable):
            raise ValueError("a state for something that has none")
        target.build(state)
        self.stack.append(target)

    def _persistent_id(self, _: None) -> None:
        if self.persistent is None:
            raise ValueError("a reference to something outside")
        self.stack.append(self.persistent(self.stack.pop()))

    def _pop(self, count: int) -> list[Any]:
        self._tuple(count)
        return list(self.stack.pop())


OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: _check_protocol(version),
    "FRAME": lambda machine, length: None,
    "STOP": lambda machine, _: None,
    "MARK": _Machine._mark,
    "TUPLE": _Machine._tuple,
    "APPEND": lambda machine, _: machine._append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_mark()),
    "ADDITEMS": lambda machine, _: machine._add(machine._pop_mark()),
    "SETITEM": lambda machine, _: machine._set(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._pop_mark()),
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._put,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "GLOBAL": lambda machine, names: machine._global(names.replace(" ", ".")),
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent_id,
}


def _check_protocol(version: int) -> None:
    if version not in PROTOCOLS:
        raise ValueError(f"protocol {version}")


def _exactly(value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise ValueError(f"{' or '.join(t.__name__ for t in types)} expected, {type(value).__name__} found")
    return value


def _key(value: Any) -> str | int:
    """Accepts only strings and integers as keys, since hashing a deeply nested tuple would overflow Python's stack."""
    return _exactly(value, str, int)


def _bounded(value: Any) -> Any:
    """Accepts integers of at most 64 bits, since larger ones can be chosen to collide in a dictionary."""
    if type(value) is int and value.bit_length() > 63:
        raise ValueError("an integer of more than 64 bits")
    return value
