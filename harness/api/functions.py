"""Suites and results directories from Python: what the commands of the same names do, without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import diagnosis, reporting, verification
from harness.api.results import Results
from harness.callback import SILENT, Callback
from harness.evaluation.crew import Part
from harness.evaluation.engines.choose import choose
from harness.evaluation.run import run as finish
from harness.gradients import Gradient
from harness.reporting import Table
from harness.reporting.tables import comparison
from harness.reporting.tables.comparison import Comparison
from harness.results.diagnosis import Diagnosis
from harness.results.load import Run, read_run
from harness.settings import device_of
from harness.suite.plan import Plan
from harness.verification import CellReport

if TYPE_CHECKING:
    import torch

ResultsLike = Results | str | Path
"""Results, or the directory that holds them."""


def run(
    suite: Plan,
    out: str | Path,
    *,
    device: str | torch.device | None = None,
    callback: Callback = SILENT,
    retry_errors: bool = True,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    address: str | None = None,
    gpu_share: float | None = None,
    timeout: float | None = None,
    worker: str | None = None,
) -> Results:
    """Runs a suite, or finishes one that was stopped: as `harness run`, and with the same results.

    Args:
        suite: as `load_suite` returns it.
        out: the results directory, made if absent. What is finished there is not computed again.
        device: "cpu", "cuda", ...; left out, a GPU where there is one.
        callback: is told how far the run is; left out, nothing is printed.
        retry_errors: compute shards anew that ended in errors.
        engine: "local", on this machine, or "ray", on a Ray cluster. No result depends on it.
        workers: compute in so many processes, among which the cores are divided; left out, in this one.
        devices: compute in a process on each of these, such as ["cuda:0", "cuda:1"]; `device` is not used then.
        address: of the Ray cluster; left out, a running one, or a new one on this machine.
        gpu_share: the part of a GPU that each shard on the Ray cluster takes, such as 0.5; left out, what earlier
            shards of its pairing were measured to need.
        timeout: seconds that an image may take, averaged over its shard, before its process counts as hanging and is
            ended; `float("inf")` for no limit. Left out, with `workers`, `devices` or Ray, 20 times what is expected.
        worker: "3/8" for the third of eight processes that share `out`, on any machines with the same file system; left
            out, no other process may write it.

    Returns:
        `Results`; their `computed` says how many shards this call computed.

    Raises:
        UserError: the suite, the directory, a checkpoint or a gate forbids it. What was finished is kept.

    Example:
        >>> suite = harness.load_suite("suites/quickstart.yaml", limit=4, only="undefended/linf")
        >>> harness.run(suite, folder).computed
        1
        >>> harness.run(suite, folder).computed
        0
    """
    root = Path(out).expanduser()
    options = {"workers": workers, "devices": devices, "address": address, "gpu_share": gpu_share, "timeout": timeout}
    chosen = choose(engine, device, **options)  # type: ignore[arg-type]
    where, part = device_of(devices[0] if devices else device), None if worker is None else Part.of(worker)
    done = finish(suite, root, where, callback, retry_errors=retry_errors, engine=chosen, timeout=timeout, part=part)
    return Results.read(root, computed=done.computed)


def load_results(directory: str | Path) -> Results:
    """The results that a run left in a directory, finished or not.

    Raises:
        UserError: there are none, or they cannot be read.

    Example:
        >>> results = harness.load_results(directory)
        >>> sorted(set(results.frame["defense"]))
        ['at_l2', 'at_linf', 'dc', 'rdc', 'undefended']
    """
    return Results.read(Path(directory).expanduser())


def summarise(results: ResultsLike) -> Table:
    """Every number of a run's table as data: rows of entries, each with its interval and remarks.

    Raises:
        UserError: there are no results, or they cannot be read.

    Example:
        >>> table = harness.summarise(directory)
        >>> [column.label for column in table.columns][:2], table.rows[0].entries[0].estimate.value
        (['Clean', 'Linf'], 1.0)
    """
    return reporting.summarise(_run_of(results))


def report(results: ResultsLike, format: str = "md", *, images: int | None = None) -> Any:
    """All runs at or below a directory in one format, as `harness report` prints it.

    Args:
        format: "md", "latex", "csv", "json", "html" for a page with images, "png" or "pdf" for plots, "robustbench" or
            "autoattack" for leaderboards, "junit" or "sarif" for CI systems; "table" is for `rich.print`.
        images: of each pairing in the HTML page; left out, the page chooses.

    Returns:
        Text that ends in a newline; for "table", what rich renders; for plots and "robustbench", the files by name.

    Raises:
        UserError: there are no results, they cannot be read, or there is no such format.

    Example:
        >>> text = harness.report(directory, "csv")
        >>> text.splitlines()[0].split(",")[:4]
        ['run', 'suite', 'defense', 'defense_label']
    """
    return reporting.report(_path_of(results), format, images)


def compare(first: ResultsLike, second: ResultsLike | None = None) -> Comparison:
    """Two runs, pairing by pairing on the images that they share; or the defenses of one run with each other.

    Returns:
        A comparison whose `matches` hold the differences in accuracy with 95% intervals, and whether they are
        significant (McNemar's exact test, where images are right or wrong) among all of them.

    Raises:
        UserError: there are no results, or no pairing of the same names.

    Example:
        >>> same = harness.compare(directory, directory)
        >>> same.matches[0].same_claim, same.matches[0].robust.value
        (True, 0.0)
    """
    one = _run_of(first)
    return comparison.contrast(one) if second is None else comparison.compare(one, _run_of(second))


def verify(
    results: ResultsLike,
    *,
    suite: str | Path | None = None,
    only: str | Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    replay: bool = True,
    trust: bool = False,
    device: str | torch.device | None = None,
) -> list[CellReport]:
    """Checks stored results: budgets of the images, then the defense's answers, built again and asked again.

    A defense that `evaluate` was given as an object cannot be built again by anybody: its images and budgets are
    checked, and its reports say "not replayed".

    Args:
        suite: the suite's file, which relative paths start from.
        only: "DEFENSE" or "DEFENSE/ATTACK", or several of them.
        limit: so many images of each pairing, rounded up to whole shards.
        batch_size: images asked at once; left out, as many as the run asked.
        replay: ask the defenses too.
        trust: import code that the results name and that does not come with this package, which runs it.
        device: where defenses are asked; left out, a GPU where there is one.

    Returns:
        A report on the manifest, then one per pairing. `outcome` is "holds" or says what does not; `problems` are
        contradictions, `gaps` what could not be verified.

    Raises:
        UserError: there are no results, or nothing is chosen.

    Example:
        >>> reports = harness.verify(directory, only="undefended/linf")
        >>> [(report.name, report.outcome) for report in reports]
        [('run.json', 'holds'), ('undefended/linf', 'holds')]
    """
    file = None if suite is None else Path(suite).expanduser()
    options = {"suite": file, "only": only, "limit": limit, "batch_size": batch_size, "replay": replay, "trust": trust}
    reports = verification.verify(_path_of(results), device_of(device), **options)  # type: ignore[arg-type]
    return list({report.name: report for report in reports}.values())


def diagnose(
    suite: Plan,
    out: str | Path,
    *,
    images: int = 100,
    gradient: Gradient | None = None,
    eot: int | None = None,
    steps: int = 10,
    largest_eot: int = 4,
    queries: int = 100,
    surrogate: str | None = None,
    device: str | torch.device | None = None,
    callback: Callback = SILENT,
) -> list[Diagnosis]:
    """Looks for masked gradients in the defenses of a suite, each under the first of its pixel budgets.

    Args:
        suite: as `load_suite` returns it; its `only` chooses the defenses.
        out: the results directory, whose reports show the findings.
        images: the first so many of the suite's.
        gradient, eot: of the white-box attack; left out, those of the suite's attack.
        steps: of PGD, the white-box attack.
        largest_eot: gradient randomness is measured at EOT 1, 2, 4, ... up to this.
        queries: of Square, the black-box attack.
        surrogate: the defense whose adversarial images are transferred; left out, the first other one.
        device: left out, a GPU where there is one.
        callback: is told of every finding; left out, nothing is printed.

    Returns:
        A diagnosis per defense, with its `findings`.

    Raises:
        UserError: the directory is another suite's, a defense has no pixel budget or cannot be built, or there is no
            such surrogate.

    Source:
        Carlini et al., 2019 (arXiv:1902.06705), and Sec. 4.4 of Chen et al., 2023 (arXiv:2305.15241).

    Example:
        >>> suite = harness.load_suite("suites/quickstart.yaml", only="undefended")
        >>> (diagnosis,) = harness.diagnose(suite, folder, images=4, steps=2, largest_eot=1, queries=2)
        >>> diagnosis.defense, diagnosis.finished
        ('undefended', True)
    """
    options = diagnosis.Options(images, gradient, eot, steps, largest_eot, queries, surrogate)
    return diagnosis.diagnose(suite, Path(out).expanduser(), options, device_of(device), callback)


def _path_of(results: ResultsLike) -> Path:
    return results.path if isinstance(results, Results) else Path(results).expanduser()


def _run_of(results: ResultsLike) -> Run:
    return results.run if isinstance(results, Results) else read_run(_path_of(results))
