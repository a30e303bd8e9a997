"""Attacks that take their process with them.

Each notes down its processes: one file each, in a folder beside this module that has the name of the class.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

from fakes import Noise
from torch import Tensor

from harness.attack import Target


class Marked(Noise):
    """Does nothing else."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        self.folder().mkdir(exist_ok=True)
        self.folder().joinpath(str(os.getpid())).touch()
        return super().perturb(target, x, y)

    def folder(self) -> Path:
        return Path(__file__).with_name(type(self).__name__)


class Gated(Marked):
    """Waits for a file `go` beside this module before it attacks."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        adversarial = super().perturb(target, x, y)
        while not Path(__file__).with_name("go").exists():
            time.sleep(0.05)
        return adversarial


class KilledOnce(Marked):
    """Its process is killed, except where that has happened before."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        before = self.folder().exists()
        adversarial = super().perturb(target, x, y)
        if not before:
            os.kill(os.getpid(), signal.SIGKILL)
        return adversarial


class Killed(Marked):
    """Its process always ends, after it has said something."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        print("the last thing that was heard", flush=True)
        super().perturb(target, x, y)
        os._exit(3)


class Hung(Marked):
    """Never comes back from native code, which lets no other thread of Python run, on the images of one class."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        if not (y == 7).any():
            return Noise.perturb(self, target, x, y)
        super().perturb(target, x, y)
        ctypes.PyDLL(None).sleep(10_000)
        raise AssertionError("it came back")
