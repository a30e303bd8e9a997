"""What is installed and available, which known faults the installation has, and the commands that repair them.

A broken installation must not break its doctor: each examination imports only the libraries that it is about.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib
import importlib.util
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from harness.checks.finding import Finding, Status
from harness.errors import UserError, one_line

OURS = "adversarial-harness"
ROBUSTBENCH = "robustbench==1.1.1"
TORCHATTACKS = "torchattacks==3.5.1"


def examine() -> list[Finding]:
    """Examines versions, devices, caches and known faults, in this order. Imports the libraries; takes seconds."""
    return [finding for look in (versions, devices, caches, faults) for finding in _examined(look)]


def versions() -> Iterator[Finding]:
    """This package, and whether each of its requirements is met."""
    yield Finding("python", "passed", f"{platform.python_version()} in {sys.prefix}")
    try:
        requirements = [Requirement(text) for text in metadata.requires(OURS) or []]
    except metadata.PackageNotFoundError:
        root = Path(__file__).parents[2]
        yield Finding(OURS, "failed", f"runs from {root} without being installed", pip(f"install --editable {root}"))
        return
    yield Finding(OURS, "passed", f"{metadata.version(OURS)} in {Path(__file__).parents[1]}")
    for requirement in requirements:
        if requirement.marker is None:
            yield _required(requirement, "failed")
        elif _extra(requirement) not in ("test", "dev"):
            yield _required(requirement, "warned")
    yield _torchattacks()


def devices() -> Iterator[Finding]:
    """What torch can compute on."""
    import torch

    from harness.process import half_precision

    cores = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}"
    yield Finding("cpu", "passed", f"{cores}; the environment variable OMP_NUM_THREADS changes that")
    emulated = half_precision.is_emulated("bf16", torch.device("cpu"))
    yield Finding("cpu in bfloat16", "passed", "emulated, slower than float32" if emulated else "computed by oneDNN")
    yield _cuda()
    if sys.platform == "darwin":
        there = torch.backends.mps.is_available()
        yield Finding("mps", "passed" if there else "warned", "Apple GPU" if there else "torch sees no Apple GPU")


def caches() -> Iterator[Finding]:
    """Datasets that can be loaded now, and whether the packaged checkpoints are what their cards say."""
    from harness import datasets, weights

    for found in datasets.state():
        place = found.place if found.present else f"not in {found.place}; it is fetched when it is first used"
        yield Finding(f"dataset {found.name}", "passed" if found.present else "warned", place)
    for name, path in weights.packaged().items():
        yield _checkpoint(name, path)


def faults() -> Iterator[Finding]:
    """Every fault of an installation that is known to happen."""
    for look in (autoattack_alias, pkg_resources_present, robustbench_whole, torch_pair, numpy_bridge):
        yield look()


def autoattack_alias() -> Finding:
    """robustbench imports `autoattack`, which no package index has; see `harness.process.compat`."""
    name = "import autoattack"
    try:
        module = importlib.import_module("autoattack")
    except ImportError as error:
        return Finding(name, "failed", one_line(error), pip("install 'pyautoattack>=0.2.0'"))
    return Finding(name, "passed", f"gives {module.__name__}")


def pkg_resources_present() -> Finding:
    """robustbench imports `pkg_resources`, which setuptools removed in version 81."""
    name = "import pkg_resources"
    if importlib.util.find_spec("pkg_resources") is None:
        return Finding(name, "failed", "this setuptools no longer has it", pip("install 'setuptools<81'"))
    return Finding(name, "passed", "can be imported")


def robustbench_whole(distribution: metadata.Distribution | None = None) -> Finding:
    """torchattacks installs an old copy of robustbench over the real one, and deletes it when it is uninstalled.

    Args:
        distribution: the robustbench to look at; the installed one if left out.
    """
    name, repair = "robustbench's files", pip(f"install --force-reinstall --no-deps {ROBUSTBENCH}")
    try:
        found = distribution or metadata.distribution("robustbench")
    except metadata.PackageNotFoundError:
        return Finding(name, "failed", "robustbench is not installed", repair)
    changed = altered(found, "robustbench")
    if changed:
        some = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        return Finding(name, "failed", f"{len(changed)} files are not those of {found.version} ({some})", repair)
    return Finding(name, "passed", f"the files are those of {found.version}, byte for byte")


def torch_pair() -> Finding:
    """torch and torchvision must come from one build; torchvision names the torch it was built for."""
    import torch

    name = "torch and torchvision"
    wanted = next((r for r in map(Requirement, metadata.requires("torchvision") or []) if r.name == "torch"), None)
    version = metadata.version("torchvision")
    pair = f"'{wanted or 'torch'}' torchvision=={version.partition('+')[0]}"
    repair = f"{pip('uninstall --yes torch torchvision')} && {pip(f'install {pair}')}"
    if wanted and not wanted.specifier.contains(torch.__version__, prereleases=True):
        return Finding(name, "failed", f"torchvision {version} is built for {wanted}, not {torch.__version__}", repair)
    try:
        ops = importlib.import_module("torchvision.ops")
        ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:  # a mismatch shows as whatever the loader or the dispatcher happens to raise
        return Finding(name, "failed", f"torchvision's operators do not work: {one_line(error)}", repair)
    return Finding(name, "passed", "they come from one build")


def numpy_bridge() -> Finding:
    """A torch built for NumPy 1 cannot talk to NumPy 2."""
    import numpy as np
    import torch

    name = "torch and numpy"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.from_numpy(np.zeros(1)).numpy()
    except RuntimeError as error:
        return Finding(name, "failed", f"they do not work together: {one_line(error)}", pip("install 'numpy<2'"))
    return Finding(name, "passed", "they work together")


def altered(distribution: metadata.Distribution, package: str) -> list[str]:
    """Files of a package that are missing or not the ones its distribution installed, by the hashes it keeps.

    Args:
        package: the folder to look at; a distribution may hold others beside it.
    """
    record = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    own = {file: digest for file, digest, _ in record if digest and file.startswith(f"{package}/")}
    if not own:
        return [f"{package}/ (the installer kept no list of its files)"]
    return sorted(file for file, digest in own.items() if _hash(Path(str(distribution.locate_file(file)))) != digest)


def pip(arguments: str) -> str:
    """A pip command line for the environment that is running."""
    return f"{shlex.quote(sys.executable)} -m pip {arguments}"


def _hash(path: Path) -> str | None:
    """As RECORD writes it, or None where there is no file."""
    if not path.is_file():
        return None
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()


def _required(requirement: Requirement, otherwise: Status) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    repair = pip(f"install {shlex.quote(wanted)}")
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        extra = _extra(requirement)
        return Finding(
            requirement.name,
            otherwise,
            f"not installed; the extra '{extra}' needs it" if extra else "not installed",
            repair,
        )
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, "failed", f"{version} is installed, and {wanted} is needed", repair)
    return Finding(requirement.name, "passed", version)


def _extra(requirement: Requirement) -> str | None:
    """The extra that asks for it: `extra == "ray"` -> ray."""
    return str(requirement.marker).rpartition("extra == ")[2].strip("\"'") if requirement.marker else None


def _torchattacks() -> Finding:
    repair = (
        f"{pip(f'install --no-deps {TORCHATTACKS}')} && {pip(f'install --force-reinstall --no-deps {ROBUSTBENCH}')}"
    )
    try:
        version = metadata.version("torchattacks")
        importlib.import_module("torchattacks")
    except metadata.PackageNotFoundError:
        return Finding("torchattacks", "warned", "not installed; attacks of type torchattacks need it", repair)
    except ImportError as error:
        return Finding("torchattacks", "failed", one_line(error), repair)
    return Finding("torchattacks", "passed", version)


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("cuda", "passed", f"{', '.join(names)}; torch is built for CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        return Finding("cuda", "warned", "this torch is built without CUDA")
    try:
        torch.cuda.init()
    except RuntimeError as error:
        return Finding("cuda", "warned", str(error).strip().splitlines()[0])
    return Finding("cuda", "warned", "torch sees no CUDA device")


def _checkpoint(name: str, path: Path) -> Finding:
    from harness.results.environment import git_revision
    from harness.weights.checkpoint import Checkpoint

    try:
        card = Checkpoint.find(name).card
    except UserError as error:
        restore = f"git -C {shlex.quote(str(path.parent))} checkout -- '{name}.*'"
        return Finding(f"weights {name}", "failed", error.message, restore if git_revision(path.parent) else None)
    return Finding(f"weights {name}", "passed", card.summary if card else "it has no card")


def _examined(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of an examination. One that cannot be completed becomes a finding of its own."""
    try:
        yield from look()
    except Exception as error:
        yield Finding(f"examination of {look.__name__}", "failed", f"it could not be completed: {one_line(error)}")
