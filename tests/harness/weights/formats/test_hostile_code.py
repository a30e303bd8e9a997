"""Pickles that would run code: each is refused by the name of what it asks for, in every container of pickles."""

from __future__ import annotations

import contextlib
import pickle
import warnings

import pytest

from helpers.weight_files import Opcodes, legacy_bytes, zip_bytes

PLANT = "open({!r}, 'w').close()"
CONTAINERS = ("bare", "network", "module", "storage", "legacy", "zip")


def payloads(op, canary):
    """Programs that would create the canary, each a different way to reach a function."""
    source, shell = op.text(PLANT.format(str(canary))), op.text(f"touch '{canary}'")
    importlib = op.call(op.name("importlib", "import_module"), op.text("os"))
    system = op.call(op.name("builtins", "getattr"), importlib, op.text("system"))
    compiled = op.call(op.name("builtins", "compile"), source, op.text("x"), op.text("exec"))
    command = op.tuple(op.tuple(op.text("touch"), op.text(str(canary))))
    evaluated = op.call(op.name("builtins", "eval"), source)
    return {
        "os.system": op.call(op.name("os", "system"), shell),
        "posix.system": op.call(op.name("posix", "system"), shell),
        "posix.system by STACK_GLOBAL": op.call(op.stacked_name("posix", "system"), shell),
        "builtins.eval": evaluated,
        "builtins.exec": op.call(op.name("builtins", "exec"), source),
        "__builtin__.eval of Python 2": op.call(op.name("__builtin__", "eval"), source),
        "exec of a compiled program": op.call(op.name("builtins", "exec"), compiled),
        "a function found by a function": op.call(system, shell),
        "subprocess by NEWOBJ": op.name("subprocess", "Popen") + command + b"\x81",
        "INST": b"(" + shell + b"ios\nsystem\n",
        "OBJ": b"(" + op.name("os", "system") + shell + b"o",
        "an attribute of an allowed name": op.call(op.stacked_name("collections", "OrderedDict.fromkeys"), shell),
        "an extension code": b"\x82\x01",
        "torch.load": op.call(op.name("torch", "load"), op.text(str(canary))),
        "numpy.load": op.call(op.name("numpy", "load"), op.text(str(canary)), b"N", b"\x88"),
        "another class of an allowed module": op.call(op.name("torch.nn.modules.container", "Sequential"), shell),
        "a state for an object": op.name("types", "SimpleNamespace") + b")\x81" + op.dict(a=shell) + b"b",
        "eval where a storage belongs": op.tensor(evaluated, (1,), (1,)),
        "eval where a key belongs": b"}" + evaluated + b"Ns",
        "eval in a state dict's metadata": op.call(op.name("collections", "OrderedDict"))
        + op.dict(_metadata=evaluated)
        + b"b",
    }


@pytest.fixture
def contained():
    """A file, by its container, that runs the expression when it is unpickled."""
    op = Opcodes

    def write(container: str, expression: bytes) -> bytes:
        if container == "legacy":
            return legacy_bytes(expression)
        if container == "zip":
            return zip_bytes(op.dict(state_dict=expression))
        if container == "storage":
            load = op.name("torch.storage", "_load_from_bytes")
            expression = op.call(load, op.blob(legacy_bytes(expression)))
        if container == "module":
            state = op.dict(_modules=op.dict(a=expression))
            meta = op.dict(type=op.text("class"), class_name=op.text("A"), state=state)
            expression = op.call(op.name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)
        return b"\x80\x04" + (expression if container == "bare" else op.dict(ema=expression)) + b"."

    return write


def test_the_payloads_are_live(tmp_path):
    """Otherwise it would show nothing that they plant nothing."""
    canary, planted = tmp_path / "canary", set()
    for name, program in payloads(Opcodes, canary).items():
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = pickle.loads(b"\x80\x04" + program + b".")
            if hasattr(value, "wait"):
                value.wait()
        if canary.exists():
            planted.add(name)
            canary.unlink()
    assert len(planted) >= 10


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_payload_runs_in_any_container(container, contained, refuse, tmp_path):
    canary = tmp_path / "canary"
    for name, program in payloads(Opcodes, canary).items():
        refuse(contained(container, program), r"asks for `[\w.]+`, which is code|the opcode \w+, which no checkpoint")
        assert not canary.exists(), name


def test_a_refused_global_is_named(refuse):
    program = Opcodes.call(Opcodes.name("os", "system"), Opcodes.text("true"))
    refuse(b"\x80\x02" + program + b".", "`os.system`")


def test_the_name_of_a_refused_global_cannot_steer_the_terminal(refuse):
    refuse(b"\x80\x04" + Opcodes.stacked_name("os\x1b[2J\n", "system") + b".", r"`os\?\[2J\?\.system`")


def test_the_name_of_a_refused_global_is_shortened(refuse):
    program = Opcodes.stacked_name("m" * 100_000, "n")
    refuse(b"\x80\x04" + program + b".", "`m{100}`")
