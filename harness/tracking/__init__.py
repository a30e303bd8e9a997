"""Runs in experiment trackers: `harness run SUITE --log tensorboard:DIR`, and the callback behind it.

    run_tracker    a callback that sends the numbers of a run to a recorder
    recorder       what a recorder must do
    recorders      one file for each experiment tracker, by the name that `--log` takes

From Python, give `harness.run` the callback `tracker("tensorboard:DIR")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.process.lazy import lazy

if TYPE_CHECKING:
    from harness.tracking.recorder import Recorder
    from harness.tracking.run_tracker import Tracker, tracker

__all__ = ["Recorder", "Tracker", "tracker"]

__getattr__ = lazy(
    __name__,
    {
        "Recorder": "harness.tracking.recorder",
        "Tracker": "harness.tracking.run_tracker",
        "tracker": "harness.tracking.run_tracker",
    },
)
