"""The training loop: seeded, resumable at any step, interruptible at every step.

A step is a function of the recipe, the step's number and the state before it. Its batch is a slice of an endless
sequence of permutations of the training set, one for each epoch with its own seed; everything else that is random
(augmentation, dropout, noise) is drawn from generators seeded for that step. So a checkpoint needs no generator states,
and a resumed run ends with exactly the weights of an uninterrupted one. Several processes divide each batch among
themselves (`harness.training.processes`); what is random then depends on their number, and so do the weights.
"""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
import yaml
from safetensors.torch import save
from torch import Tensor, nn

from harness.callback import SILENT, Callback
from harness.datasets.by_name import load_section
from harness.datasets.dataset import Dataset
from harness.datasets.spec import CHOICES
from harness.datasets.spec import Dataset as Section
from harness.errors import UserError, one_line
from harness.files import refuse_unwritable, write_atomically
from harness.process import half_precision
from harness.process.signals import ENDING, Stopped
from harness.randomness import derive, fenced
from harness.training.accuracy import accuracy
from harness.training.processes import Processes
from harness.training.recipe import Plan, Recipe, read
from harness.training.state import State
from harness.training.step import batch, step
from harness.training.trainer import Trainer, check_logits
from harness.weights.card import Card
from harness.weights.checkpoint import Checkpoint, build_network

SAVE_EVERY = 30.0
"""Seconds between checkpoints, at least."""
SAVING_SHARE = 0.02
"""Of the time, what writing checkpoints takes at most: that of a large network takes seconds."""


def train(
    recipe_path: Path,
    out: Path | None = None,
    device: torch.device | str = "cpu",
    callback: Callback = SILENT,
    runs: Path = Path("runs"),
) -> Path:
    """Trains by a recipe, or continues where an earlier call stopped.

    Args:
        recipe_path: the YAML file of the recipe.
        out: folder for the weights and their card; by default `runs`/RECIPE.
        device: the device to train on; several processes, see `harness.training.processes`, take a GPU each.
        callback: receives the progress, in the first process.
        runs: folder for the checkpoints of unfinished runs.

    Returns:
        The weights file, NAME.safetensors; its card is NAME.yaml in the same folder.

    Raises:
        UserError: the recipe is not valid, there is a checkpoint of a different recipe with this name, or the recipe
            cannot be divided among the processes.
        Stopped: a signal arrived; the current step was finished and a checkpoint written.
    """
    plan = read(recipe_path)
    recipe, trainer, folder = plan.recipe, plan.trainer.build(), runs / plan.recipe.recipe
    data, test = _load(plan, plan.data()), _load(plan, _whole_test(plan.data()))
    processes = Processes.of_this_launch(device)
    network = _network(plan, trainer, data, processes.device)
    _refuse_indivisible(plan, trainer, processes)
    _refuse_unresumable(plan, trainer)
    callback = callback if processes.first else SILENT
    checkpoint, weights = folder / "checkpoint.pt", weights_file(out or folder, recipe)
    refuse_unwritable(checkpoint, f"Checkpoints are kept in the folder {runs}: train in another place, or clear it")
    for path in (weights, card_file(weights)):
        refuse_unwritable(path)
    state = State(network, recipe.optimizer.build(network), recipe.ema, trainer)
    if checkpoint.is_file():
        state.restore(checkpoint, recipe)
        callback.note(f"{recipe.recipe}: continuing from step {state.step} of {recipe.steps}")
    if recipe.precision == "bfloat16" and half_precision.is_emulated("bf16", processes.device):
        callback.note(f"{recipe.recipe}: {half_precision.advice('bfloat16')}")
    _join(state, processes, checkpoint)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        _run(recipe, trainer, state, data, checkpoint, callback, processes)
        if not processes.first:
            return weights
        return _release(plan, trainer, state, test, weights, folder / "accuracy.json", callback)


def weights_file(folder: Path, recipe: Recipe) -> Path:
    """The file of the weights at the end."""
    return folder / f"{recipe.recipe}.safetensors"


def card_file(weights: Path) -> Path:
    """The file of the card beside the weights."""
    return weights.with_suffix(".yaml")


def _refuse_indivisible(plan: Plan, trainer: Trainer, processes: Processes) -> None:
    """Raises UserError for a recipe whose batches do not divide, or that several processes cannot follow together."""
    size, parts = plan.recipe.batch_size, plan.recipe.accumulate
    if size % processes.count:
        raise UserError(
            f"a batch of {size} images cannot be divided equally among {processes.count} processes",
            remedy="Choose a number of processes that divides it",
            where=plan.place("batch_size"),
        )
    if size // processes.count % parts:
        raise UserError(
            f"the {size // processes.count} images of a process's batch cannot be divided into {parts} equal parts",
            remedy="Choose a number that divides them",
            where=plan.place("accumulate"),
        )
    if processes.count > 1 and type(trainer).state is not Trainer.state:
        raise UserError(
            f"the trainer {type(trainer).__name__} keeps a state between steps, which one process alone can have",
            remedy="Train in one process",
            where=plan.place("trainer"),
        )


def _refuse_unresumable(plan: Plan, trainer: Trainer) -> None:
    """Raises UserError for a trainer whose state could not be taken from a checkpoint."""
    if type(trainer).state is not Trainer.state and type(trainer).restore is Trainer.restore:
        raise UserError(
            f"the trainer {type(trainer).__name__} keeps a state between steps, and cannot take it from a checkpoint",
            remedy="Define restore(state), which gets what state() returned",
            where=plan.place("trainer"),
        )


def _join(state: State, processes: Processes, checkpoint: Path) -> None:
    """Gives all processes the same weights to begin with. Raises UserError if they are at different steps."""
    if processes.largest(state.step) != -processes.largest(-state.step):
        raise UserError(
            f"the processes continue from different steps, this one from {state.step}",
            remedy=f"All of them must see the same file {checkpoint}",
        )
    processes.share_weights(state.network)


def _whole_test(section: Section) -> Section:
    """All test images of the dataset that a section chooses images from."""
    return section.model_copy(update={"split": "test", **dict.fromkeys((*CHOICES, "seed", "limit"))})


def _load(plan: Plan, section: Section) -> Dataset:
    chosen = any(getattr(section, key) is not None for key in (*CHOICES, "limit"))
    try:
        base = plan.place("dataset", "name").file.parent
        data = load_section(section, base, section.choose if chosen else None)
        _classes(data)
    except UserError as error:
        raise error.at(plan.place("dataset")) from error
    return data


def _classes(data: Dataset) -> int:
    """The number of classes. Raises UserError if it is not known."""
    if data.num_classes is None:
        raise UserError(
            f"the number of classes of dataset '{data.name}' is not known", remedy="Add the array `num_classes` to it"
        )
    return data.num_classes


def _run(
    recipe: Recipe,
    trainer: Trainer,
    state: State,
    data: Dataset,
    checkpoint: Path,
    callback: Callback,
    processes: Processes,
) -> None:
    device = next(state.network.parameters()).device
    images, labels = data.images.to(device), data.labels.to(device)
    saved, pause = time.monotonic(), SAVE_EVERY
    state.network.train()
    with _deferred_interrupts() as asked_to_stop, callback.training(recipe.recipe, state.step, recipe.steps):
        while state.step < recipe.steps:
            rows = processes.share(batch(state.step, recipe.batch_size, len(data), recipe.seed)).to(device)
            loss = step(recipe, trainer, state, images[rows], labels[rows], processes)
            callback.stepped(state.step, loss)
            stop = int(processes.largest(asked_to_stop[0] if asked_to_stop else 0))  # all stop after the same step
            due = stop or state.step == recipe.steps or time.monotonic() - saved > pause
            if due and processes.first:
                began = time.monotonic()
                state.save(checkpoint, recipe)
                saved = time.monotonic()
                pause = max(SAVE_EVERY, (saved - began) / SAVING_SHARE)
            if stop:
                processes.wait()  # for the checkpoint: a process that ends has the others ended
                raise Stopped(stop)


def _network(plan: Plan, trainer: Trainer, data: Dataset, device: torch.device) -> nn.Module:
    """Builds and initialises the network, on the device, and checks that it can classify the dataset's images."""
    place, name = plan.place("network"), plan.recipe.dataset.name
    try:
        with fenced(derive(plan.recipe.seed, "network")):
            network = build_network(plan.recipe.network, place.file.parent).to(device)
    except UserError as error:
        raise error.at(place) from error
    images = data.images[:2].to(device)
    try:
        with torch.no_grad(), fenced(0):
            logits = trainer.logits(copy.deepcopy(network).eval(), images, _classes(data))
    except Exception as error:
        why = " ".join(str(error).split()) if isinstance(error, UserError) else one_line(error)
        raise UserError(
            f"the network cannot take the {tuple(images.shape[1:])} images of '{name}': {why}",
            remedy=f"Check the arguments under `network:`, and that trainer '{plan.trainer.type}' is for such networks",
            where=place,
        ) from error
    if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[1] != data.num_classes:
        raise UserError(
            f"the network has {logits.shape[-1]} classes, and '{name}' has {data.num_classes}",
            remedy=f"Set num_classes to {data.num_classes} under `network:`",
            where=place,
        )
    check_logits(trainer, logits, len(images), _classes(data))
    return network


def _release(
    plan: Plan, trainer: Trainer, state: State, test: Dataset, path: Path, counted: Path, callback: Callback
) -> Path:
    """Writes the weights and their card; the accuracy is measured with the written file.

    Args:
        path: the file to write.
        counted: the file that keeps how far a measurement is.
    """
    recipe, folder = plan.recipe, plan.place("network").file.parent
    card_path = card_file(path)
    card_path.unlink(missing_ok=True)  # there must never be a card beside weights that it does not describe
    write_atomically(path, save(state.weights(half=recipe.stored == "float16")))
    released = Checkpoint.find(str(path.resolve()), base=folder)  # a network of the user's is beside the recipe
    device = next(state.network.parameters()).device
    network, classes = released.network(recipe.network).to(device), _classes(test)
    measured = accuracy(
        trainer, network, test, classes, recipe.seed, weights=released.sha256, file=counted, callback=callback
    )
    card = Card(
        name=recipe.recipe,
        summary=recipe.card.summary,
        network=recipe.network,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        sha256=released.sha256,
        dataset=recipe.dataset.name,
        num_classes=classes,
        clean_accuracy=round(measured, 4),
        measured=trainer.measured,
        recipe=recipe.recipe,
        seed=recipe.seed,
        steps=recipe.steps,
        licence=recipe.card.licence,
        source=recipe.card.source,
    )
    text = yaml.safe_dump(card.model_dump(), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    write_atomically(card_path, text.encode())
    callback.note(f"{card.name}: clean accuracy {card.clean_accuracy:.1%} on {len(test)} test images ({card.measured})")
    return path


@contextmanager
def _deferred_interrupts() -> Iterator[list[int]]:
    """Collects the first signal that would end the process, so that a step can finish; a second one ends it at once."""
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    previous = {number: signal.getsignal(number) for number in ENDING}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield arrived
    finally:
        restore()
