"""The stored results of a diagnosis: `diagnose/DEFENSE.json` in a results directory, rewritten after every check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.checks.finding import Finding
from harness.errors import Place, UserError
from harness.files import write_atomically
from harness.guard.untrusted import Unreadable, contents, parse_json
from harness.process.visible_text import all_visible
from harness.results.store import refuse_links

SCHEMA_VERSION = 2
READABLE = (1, 2)
"""The schema versions that can be read."""

IN_VERSION_1 = {"pass": "passed", "suspect": "warned", "not asked": "skipped", "error": "failed"}
"""The names of the statuses in version 1, and their current names."""

FOLDER = "diagnose"

LARGEST, MOST = 1 << 22, 1_000
"""The largest size of a file in bytes, and the largest number of its findings."""


def _renamed_status(finding: Any) -> Any:
    if isinstance(finding, dict) and isinstance(status := finding.get("status"), str):
        return {**finding, "status": IN_VERSION_1.get(status, status)}
    return finding


StoredFinding = Annotated[Finding, BeforeValidator(_renamed_status)]
"""A finding, read from a document of any readable version."""


class Cosines(BaseModel):
    """The data of the check on gradient randomness: the mean cosine of two gradients, by the number of draws of each.

    Args:
        images, undefined: the number of images measured, and how many of these have no gradient.
        cosine, interval: by the number of draws.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    images: int = Field(ge=0)
    undefined: int = Field(ge=0)
    cosine: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], float]
    interval: dict[str, tuple[float, float]]

    @model_validator(mode="after")
    def _complete(self) -> Cosines:
        if not self.cosine.keys() <= self.interval.keys() or self.undefined > self.images:
            raise ValueError("a cosine has no interval, or no image")
        return self


class Strengths(BaseModel):
    """The data of a check that compares attacks of rising strength: the share of images that each fools.

    Args:
        images: attacked.
        success: by the attack, the weaker ones first.
        steps, eot: what the attacks differ by, in the same order, if by one of these.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    images: int = Field(ge=1)
    success: dict[str, float]
    steps: tuple[int, ...] | None = None
    eot: tuple[int, ...] | None = None

    @property
    def rising(self) -> bool:
        """Whether the strongest leads the one before it by more than a few unlucky images explain."""
        *_, before, last = (round(share * self.images) for share in (0.0, 0.0, *self.success.values()))
        return last - before > luck(self.images)


Span = tuple[float, float, float]
"""A mean, and the ends of its 95% interval."""


class Compressions(BaseModel):
    """The data of the check on compression: ratios of distances after and before purification.

    Args:
        images: measured.
        shares: sizes of the perturbations, in units of eps.
        compression: by the direction, for each size; "other_noise" is the random direction under another draw.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    images: int = Field(ge=1)
    shares: Annotated[tuple[float, ...], Field(min_length=1, max_length=MOST)]
    compression: dict[Literal["random", "gradient", "other_noise"], tuple[Span, ...]]

    @model_validator(mode="after")
    def _complete(self) -> Compressions:
        if any(len(self.compression.get(name, ())) != len(self.shares) for name in ("random", "gradient")):
            raise ValueError("a size of the perturbation has no compression")
        return self


LUCK = 0.05
"""Share of images by which an attack may lead another by chance; one image is always allowed."""


def luck(images: int) -> float:
    """So many of these images may fall to one attack and not to an equal one."""
    return max(1, LUCK * images)


class Diagnosis(BaseModel):
    """The findings on one defense.

    Args:
        key: hash of everything that the findings depend on: defense, surrogate, images, settings.
        attack: the attack of the suite that provides the threat model and the view of the defense.
        resolved: the defense's type and arguments, as in the suite's manifest.
        settings: see `harness.diagnosis.subject.Settings`.
        finished: whether every check has been made.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: int = SCHEMA_VERSION
    harness: str
    key: str
    suite: str
    defense: str
    label: str | None
    attack: str
    threat: str
    surrogate: str | None
    images: int
    settings: dict[str, Any]
    resolved: dict[str, Any]
    finished: bool = False
    findings: Annotated[tuple[StoredFinding, ...], Field(max_length=MOST)] = ()

    @model_validator(mode="after")
    def _fit_to_be_shown(self) -> Diagnosis:
        """Checks the values that reports use for more than showing text."""
        if not isinstance(self.settings.get("gradient"), str):
            raise ValueError("the settings have no gradient")
        for finding in self.findings:
            if "cosine" in finding.data:
                Cosines.model_validate(finding.data)
            if "compression" in finding.data:
                Compressions.model_validate(finding.data)
            if "success" in finding.data:
                Strengths.model_validate(finding.data)
        return self


def path_of(root: Path, defense: str) -> Path:
    return root / FOLDER / f"{defense}.json"


def write(root: Path, diagnosis: Diagnosis) -> None:
    refuse_links(root)
    write_atomically(path_of(root, diagnosis.defense), diagnosis.model_dump_json(indent=1).encode())


def read(path: Path) -> Diagnosis | None:
    """Reads a diagnosis; None if there is no file.

    Raises:
        UserError: the file cannot be read, or is not a diagnosis of a readable version.
    """
    try:
        content = all_visible(parse_json(contents(path, LARGEST)))
        diagnosis = Diagnosis.model_validate_json(json.dumps(content))
    except FileNotFoundError:
        return None
    except (Unreadable, ValueError) as error:
        raise _unreadable(path) from error
    if diagnosis.schema_version not in READABLE:
        raise _unreadable(path)
    return diagnosis


def read_all(root: Path) -> list[Diagnosis]:
    """All diagnoses of a results directory, sorted by name."""
    diagnoses = (read(path) for path in sorted((root / FOLDER).glob("*.json")))
    return [diagnosis for diagnosis in diagnoses if diagnosis]


def _unreadable(path: Path) -> UserError:
    return UserError(
        "this is not a diagnosis that this harness can read",
        remedy="Delete it, and run `harness diagnose` again",
        where=Place(path),
    )
