"""Starts several processes that train together on this machine, and waits for them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from harness.errors import UserError
from harness.training.processes import EXTRA

LOOPBACK = "127.0.0.1"

LAUNCHER = "HARNESS_TRAIN_LAUNCHER"
"""The variable that tells a process which one started it."""


def launch(arguments: Sequence[str], count: int, device: torch.device) -> int:
    """Runs `harness` with arguments in several processes.

    Args:
        arguments: those of the command line.
        count: how many processes; a GPU each, or parts of the cores.
        device: the kind of device that they train on.

    Returns:
        The exit status: 0 if all ended well, else that of the process that failed first.

    Raises:
        UserError: accelerate is not installed, or there are fewer GPUs.
    """
    if find_spec("accelerate") is None:
        raise UserError("training by several processes needs the package 'accelerate'", remedy=EXTRA)
    if device.type == "cuda" and count > torch.cuda.device_count():
        message = f"{count} processes need a GPU each, and this machine has {torch.cuda.device_count()}"
        raise UserError(message, remedy=f"Give --processes {torch.cuda.device_count()}, or the device cpu")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    return run_python(["-m", "harness", *arguments], count)


def run_python(words: Sequence[str], count: int) -> int:
    """Runs Python in several connected processes; prints the errors of one that failed. Returns what `launch` does."""
    with tempfile.TemporaryDirectory(prefix="harness-train-") as logs, _named():
        return _ended(words, count, logs)


def end_with_launcher() -> None:
    """Has this process stop as by SIGTERM when the one that launched it is no more: nothing else would end it then.

    It is called by the processes themselves; one that was not launched by `run_python` goes on as it is.
    """
    launcher = os.environ.get(LAUNCHER)

    def watch() -> None:
        while str(os.getppid()) == launcher:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    if launcher:
        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _named() -> Iterator[None]:
    """Tells the processes that are started in the block which one this is."""
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[LAUNCHER]


def _ended(words: Sequence[str], count: int, logs: str) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _silence("torch.distributed.elastic")  # our own messages say what happened
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0",
        local_addr=LOOPBACK,
        max_restarts=0,
        # The first process writes to this terminal; what the others write is the same, unless one of them fails.
        logs_specs=DefaultLogsSpecs(log_dir=logs, redirects={rank: Std.ALL for rank in range(1, count)}),
    )
    try:
        elastic_launch(config, sys.executable)(*words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if rank > 0:
            _print_log(Path(logs), rank)
        return _status(failure)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0


def _silence(package: str) -> None:
    """Keeps a package's log off the terminal: each of its modules has a logger with a level of its own."""
    for name in [name for name in logging.root.manager.loggerDict if name.startswith(package)]:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _status(failure: Any) -> int:
    """An exit status as shells have it: 128 + N after signal N."""
    code: int = failure.exitcode
    return code if code > 0 else 128 - code


def _print_log(logs: Path, rank: int) -> None:
    for file in sorted(logs.rglob(f"{rank}/stderr.log")):
        sys.stderr.write(f"process {rank}: {file.read_text(errors='replace')}")
