"""What a process of a Ray cluster runs: one call of a `Worker`, which the process keeps for the calls to come."""

from __future__ import annotations

import faulthandler
import os
from dataclasses import dataclass, field
from typing import Any

import ray
import torch

from harness.callback import Callback
from harness.errors import UserError
from harness.evaluation.engines import gpu_share
from harness.evaluation.engines.channel import Call
from harness.evaluation.engines.parcel import unpack
from harness.evaluation.worker import Worker

_kept: dict[tuple[str, str], Worker] = {}
"""The worker of this process, by run and device; at most one. A run that is over does not come back."""


@dataclass(frozen=True)
class Answer:
    """What a call came to.

    Args:
        result: what it returned.
        refused: the user's mistake that it found, which ends the run.
        notes: remarks for the user.
        memory: what the call took of a GPU; None on a CPU.
    """

    result: Any = None
    refused: UserError | None = None
    notes: list[str] = field(default_factory=list)
    memory: gpu_share.GpuMemory | None = None


class _Notes(Callback):
    """Keeps remarks until the call ends."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


_notes = _Notes()


def answer(run: str, parcel: list[Any], call: Call, device: str, threads: int, limit: float | None) -> Answer:
    """Does what a call asks for. An exception that it should not raise is left to Ray, which tries again elsewhere.

    Args:
        run: the name of the run; parcel: a reference to it as bytes, in a list so that Ray does not fetch it each time.
        device: "cpu", or "cuda" for the GPU that Ray has assigned.
        threads: of this process.
        limit: seconds after which this process says where it is and ends, even within native code; Ray then begins the
            call again elsewhere.
    """
    _notes.texts.clear()
    device = device if device == "cpu" else f"cuda:{_assigned()}"
    try:
        if limit is not None:
            faulthandler.dump_traceback_later(limit, exit=True, file=2)
        gpu_share.begin_measuring(device)
        if (run, device) not in _kept:
            _kept.clear()
            _kept[run, device] = Worker(unpack(ray.get(parcel[0]), device, threads, _notes))
        worker = _kept[run, device]
        result = getattr(worker, call.method)(call.argument)
        memory = gpu_share.measured(device)
        if device != "cpu":  # Ray may give this GPU to another process next
            worker.rest()
            torch.cuda.empty_cache()
        return Answer(result, notes=list(_notes.texts), memory=memory)
    except UserError as error:
        return Answer(refused=error, notes=list(_notes.texts))
    except BaseException:
        _kept.clear()  # whatever it was, the next call begins with a clean worker
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


def _assigned() -> int:
    """The index, in this process, of the GPU that Ray has assigned to the task."""
    (identity,) = ray.get_gpu_ids()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",").index(str(identity)) if visible else int(identity)
