"""A run as bytes, from which another process makes the same: suite, images, settings, and the user's own modules.

Defenses and attacks are not sent but built anew from the suite, as the driving process builds them. Only an object that
was passed in Python is sent itself. The other process refuses to work with other code than the driving one, be it ours
(which may have been updated meanwhile, or be another version on another machine) or the user's.
"""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass, replace

import cloudpickle
import torch

from harness.callback import SILENT, Callback
from harness.config import neighbours
from harness.config.component import Component
from harness.config.given import Given
from harness.datasets.batch import Images
from harness.datasets.dataset import Dataset
from harness.errors import UserError, one_line
from harness.evaluation.code import code_digest
from harness.evaluation.context import RunContext
from harness.evaluation.journals import Journals
from harness.evaluation.pending import CellRun
from harness.evaluation.seeds import Seeds
from harness.guard.process_settings import Numerics, Settings
from harness.results.store import CellStore, ShardRange
from harness.settings import device_of
from harness.suite.cell_key import Identity, refuse_unsteady
from harness.suite.plan import Cell, Plan


@dataclass(frozen=True)
class Parcel:
    """Everything that another process needs to work on a run.

    Args:
        code: the digest of this project's sources and the version of torch.
        path: where Python looks for modules; folders: the user's folders with modules that were imported by file.
        environment: the settings of the harness in environment variables.
        settings, numerics: those of the process.
        content: the pickled context, which names the user's modules.
    """

    code: str
    path: list[str]
    folders: list[neighbours.Imported]
    environment: dict[str, str]
    settings: Settings
    numerics: Numerics
    content: bytes


def pack(context: RunContext) -> bytes:
    """A run without its records, for other processes.

    Raises:
        UserError: an object that was passed in Python cannot be sent to another process.
    """
    parts = {id(part): _sendable(part) for run in context.cell_runs for part in (run.cell.defense, run.cell.attack)}
    content = _Content(
        plan=replace(context.plan, cells=(), all_cells=()),
        pairings=[
            _Pairing(
                parts[id(run.cell.defense)],
                parts[id(run.cell.attack)],
                run.parts,
                run.seeds,
                run.stored,
                list(run.shards),
            )
            for run in context.cell_runs
        ],
        dataset=replace(context.dataset, images=context.dataset.images[:0].clone()),
        images=Images(*(tensor.clone() for tensor in (context.images.index, context.images.x, context.images.y))),
        journals=context.journals,
    )
    pickled = _pickled(content)
    parcel = Parcel(
        code=code_digest(),
        path=list(sys.path),
        folders=neighbours.imported_folders(needed=lambda name: name.encode() in pickled),
        environment={name: value for name, value in os.environ.items() if name.startswith("HARNESS_")},
        settings=Settings.now(),
        numerics=Numerics.now(),
        content=pickled,
    )
    return pickle.dumps(parcel)


def unpack(data: bytes, device: str, threads: int, callback: Callback = SILENT) -> RunContext:
    """The run in this process, whose settings become those of the driving one.

    Args:
        data: as `pack` returns them. They must come from a process that is trusted: unpickling runs code.
        device: where this process evaluates defenses; threads: of this process.
        callback: is told what happens here.

    Raises:
        UserError: this process has other code than the driving one.
    """
    parcel: Parcel = pickle.loads(data)
    if parcel.code != code_digest():
        raise UserError(
            "a worker process has another version of the harness or of PyTorch than the process that drives the run",
            remedy="Install the same on all machines, leave it as it is during a run, and run the same command again",
        )
    sys.path[:] = [*parcel.path, *(entry for entry in sys.path if entry not in parcel.path)]
    os.environ.update(parcel.environment)
    for folder in parcel.folders:
        neighbours.import_folder(folder)
    content: _Content = pickle.loads(parcel.content)
    parcel.numerics.adopt()
    parcel.settings.restore()
    torch.set_num_threads(threads)
    cell_runs = [pairing.cell_run() for pairing in content.pairings]
    device_here = device_of(device)
    return RunContext(
        content.plan, cell_runs, content.dataset, content.images, device_here, callback, journals=content.journals
    )


@dataclass(frozen=True)
class _Pairing:
    """A pairing as it is sent: without its records, and without the attack, which the other process builds anew."""

    defense: Component
    attack: Component
    parts: tuple[Identity, Identity]
    seeds: Seeds
    stored: CellStore
    shards: list[ShardRange]

    def cell_run(self) -> CellRun:
        """The pairing of this process, with an attack of its own."""
        built, parts = self.attack.build(), (_known(self.defense, self.parts[0]), _known(self.attack, self.parts[1]))
        refuse_unsteady(self.attack, parts[1], built)
        cell = Cell(self.defense, self.attack)
        return CellRun(cell, built, parts, self.seeds, self.stored, dict.fromkeys(self.shards))


@dataclass(frozen=True)
class _Content:
    """What is pickled."""

    plan: Plan
    pairings: list[_Pairing]
    dataset: Dataset
    images: Images
    journals: Journals | None


def _sendable(component: Component) -> Component:
    """An object that was passed in Python is sent as a copy on the CPU."""
    return replace(component, instance=component.build()) if isinstance(component, Given) else component


def _known(component: Component, identity: Identity) -> Identity:
    """What a component must be again when it is built. A copy that was sent may pickle in another way."""
    return Identity(identity.key, {}) if isinstance(component, Given) else identity


def _pickled(content: _Content) -> bytes:
    try:
        return bytes(cloudpickle.dumps(content))
    except Exception as error:  # pickling a user's object may raise anything
        raise UserError(
            f"the run cannot be sent to other processes: {one_line(error)}",
            remedy="Remove what cannot be pickled from the model, such as open files and locks, or leave `workers` out",
        ) from error
