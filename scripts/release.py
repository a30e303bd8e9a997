"""Builds the wheel and the sdist, and tries the wheel in empty environments.

    python scripts/release.py                                            this Python, the pinned versions
    python scripts/release.py --python python3.10 --python python3.13    several interpreters
    python scripts/release.py --torch 2.6 --torch newest                 several versions of torch, else unpinned

In each environment only the wheel and what it requires is installed, and in an empty folder the quickstart runs: from
the suite and the weights inside the wheel to a table, its verification, and an archive that checks itself. It fetches
packages (torch among them, about 1 GB for each environment), so no test does this.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

WANTED = (
    "harness/archive/check.py",
    "harness/archive/guide.md",
    "harness/cli/templates/defense.py.txt",
    "harness/reporting/page/template.html",
    "attacks/presets.yaml",
    "defenses/published.yaml",
    "defenses/zoo/digits-cnn.safetensors",
    "defenses/zoo/digits-cnn.yaml",
    "suites/quickstart.yaml",
    "suites/digits/table1_sota.yaml",
    "suites/train/digits-cnn.yaml",
)
"""Files of which a wheel without them would be broken in another way each."""

COMMANDS = (
    "harness --version",
    "harness doctor",
    "harness list attacks",
    "harness run {suite} --limit 4 --out results",
    "harness report results",
    "harness report results --format html",
    "harness verify results",
    "harness export results --out run.zip",
    "python -m zipfile -e run.zip unpacked",
    "python -I unpacked/check.py",
    "harness import run.zip --out again",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="PYTHON", help="an interpreter; may be repeated")
    parser.add_argument("--torch", action="append", metavar="VERSION", help="a version, or newest; may be repeated")
    parser.add_argument("--only-build", action="store_true", help="build and examine, and install nothing")
    options = parser.parse_args()
    try:
        wheel = build()
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"The wheel cannot be built: {reason(error)}")
    examine(wheel)
    if options.only_build:
        return 0
    rows = []
    for python in options.python or [sys.executable]:
        for torch in options.torch or [None]:
            rows.append((python, torch or "pinned", tried(wheel, python, torch)))
    width = max(len(python) for python, *_ in [("python",), *rows]) + 2
    print(f"\n{'python':{width}}{'torch':12}result")
    for python, version, result in rows:
        print(f"{python:{width}}{version:12}{result}")
    return 0 if all(result == "works" for *_, result in rows) else 1


def build() -> Path:
    """The wheel; it and the sdist lie in dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, tracked.decode().split("\0")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
        environment = Path(temporary) / "environment"
        run(sys.executable, "-m", "venv", str(environment))
        run(str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "build")
        run(str(environment / "bin" / "python"), "-m", "build", "--outdir", str(DIST), str(source))
    (wheel,) = DIST.glob("*.whl")
    (sdist,) = DIST.glob("*.tar.gz")
    print(f"Built {wheel.name} ({wheel.stat().st_size:,} bytes) and {sdist.name} ({sdist.stat().st_size:,} bytes)")
    return wheel


def examine(wheel: Path) -> None:
    """Ends the program if the wheel lacks something, or has another version than the sources say."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    if absent := [name for name in WANTED if name not in names]:
        sys.exit(f"The wheel lacks {', '.join(absent)}")
    found = re.search(r'^__version__ = "(.+)"', (ROOT / "harness" / "__init__.py").read_text(), re.MULTILINE)
    if found is None or f"-{found[1]}-" not in wheel.name:
        sys.exit(f"{wheel.name} is not of the version that harness/__init__.py says")


def tried(wheel: Path, python: str, torch: str | None) -> str:
    """Installs the wheel into an empty environment, and runs it in an empty folder. Returns what came of it."""
    with tempfile.TemporaryDirectory() as temporary:
        environment, folder = Path(temporary) / "environment", Path(temporary) / "folder"
        folder.mkdir()
        pins = ["-c", str(ROOT / "constraints.txt")] if torch is None else []
        asked = [f"torch=={torch}.*"] if torch not in (None, "newest") else []
        install = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", *pins]
        paths = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        clean |= {"PATH": paths, "COLUMNS": "120"}
        try:
            run(python, "-m", "venv", str(environment))
            run(*install, "--no-deps", "torchattacks")
            run(*install, *asked, str(wheel))
            code = "import suites; print(next(iter(suites.__path__)) + '/quickstart.yaml')"
            suite = run("python", "-c", code, cwd=folder, env=clean).strip()
            for command in COMMANDS:
                print(f"$ {command}", flush=True)
                run(*command.format(suite=suite).split(), cwd=folder, env=clean)
        except (subprocess.CalledProcessError, OSError) as error:
            return f"fails: {reason(error)}"
    return "works"


def reason(error: subprocess.CalledProcessError | OSError) -> str:
    """Why a command failed, in a line. What it printed is printed before."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    for shown in (error.stdout, error.stderr):
        if shown:
            print(shown if isinstance(shown, str) else shown.decode(errors="replace"), file=sys.stderr)
    return f"`{' '.join(map(str, error.cmd))[-100:]}` ended with status {error.returncode}"


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    path = shutil.which(command[0], path=env["PATH"]) if env else command[0]
    done = subprocess.run(
        [path or command[0], *command[1:]], cwd=cwd, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
