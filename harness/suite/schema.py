"""The keys of a suite file, and their types."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from harness.config.validation import Line
from harness.datasets.spec import Count, Dataset, Seed, _Section
from harness.suite.limits import LISTS, MOST_IMAGES, MOST_VALUES, MOST_VOTES, VALUES


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", text):
        raise ValueError(
            "a name starts with a letter or digit and has at most 80 characters: letters, digits, '_', '-' and '.'"
        )
    return text


def _folder(text: str) -> str:
    if "." in _name(text):
        raise ValueError("it is used as the name of a folder: use letters, digits, '-' and '_'")
    return text


Name = Annotated[str, AfterValidator(_name)]
Percent = Annotated[float, Field(gt=0, le=100)]
Values = Annotated[list[Any], Field(min_length=1)]


class Protocol(_Section):
    votes: Annotated[int, Field(ge=1, le=MOST_VOTES)] = Field(
        default=1, description="predictions per image of a stochastic defense; an odd number makes ties less likely"
    )
    seed: Seed = Field(default=0, description="every other seed derives from it")
    shard: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = Field(
        default=32, description="images per shard; a run is stored and resumed shard by shard"
    )
    batch_size: Count = Field(default=256, description="images sent through a defense at once; no result depends on it")
    gates: Literal["stop", "mark", "off"] = Field(
        default="mark", description="what happens if a defense fails the checks before it is attacked"
    )

    @model_validator(mode="after")
    def _fits(self) -> Protocol:
        most = MOST_VALUES // (VALUES + LISTS * self.votes)
        if self.shard > most:
            raise ValueError(f"with {self.votes} votes a shard has at most {most:,} images")
        return self


class Entry(BaseModel):
    """A defense or attack. All other keys are arguments of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str | None = Field(default=None, description="built-in name, package.module:Class or ./file.py:Class")
    label: Line | None = Field(default=None, description="the name in reports; by default the name of the entry")


class Defaults(_Section):
    defenses: dict[str, Any] | None = Field(
        default=None, description="keys of every defense that does not set them itself"
    )
    attacks: dict[str, Any] | None = Field(
        default=None, description="keys of every attack that does not set them itself"
    )


class PairingEntry(_Section):
    defense: str | Annotated[list[str], Field(min_length=1)] = Field(description="a name, or a list of names")
    attack: str | Annotated[list[str], Field(min_length=1)] = Field(description="a name, or a list of names")
    overrides: dict[str, Any] | None = Field(
        default=None,
        alias="with",
        description="changes to the attack; with a `type`, another attack replaces it",
    )


class Report(_Section):
    average: tuple[str, ...] | None = Field(default=None, description="attacks to average over; by default all")
    worst: tuple[str, ...] | None = Field(
        default=None, description="attacks in the worst case per image; by default those of `average`"
    )
    naive: tuple[str, ...] = Field(
        default=(), description="attacks of a naive evaluation; rows in which a stronger one contradicts it are marked"
    )
    competitiveness: dict[Name, Percent] | None = Field(
        default=None,
        description="show competitiveness ratios over the attacks of `worst`: the best accuracy known against each, in "
        "percent; attacks left out, or {}, take the highest in the table",
    )
    groups: dict[Line, tuple[Name, ...]] = Field(
        default={}, description="headings of the table, and the defenses below each; all others come first"
    )
    reference: Name | None = Field(
        default=None, description="published numbers to show for comparison, from results/reference"
    )
    vote: Literal["mean", "single", "majority", "worst"] = Field(
        default="mean", description="how tables and comparisons combine the predictions of a stochastic defense"
    )


class Suite(_Section):
    suite: Annotated[str, AfterValidator(_folder)] = Field(description="name of the suite and of its results folder")
    title: Line = Field(default="", description="title of the report, in one line")
    dataset: Dataset = Field(description="the images")
    protocol: Protocol = Protocol()
    defenses: Annotated[dict[Name, Entry], Field(min_length=1)] = Field(description="the defenses, by name")
    attacks: Annotated[dict[Name, Entry], Field(min_length=1)] = Field(description="the attacks, by name")
    certificates: dict[Name, Entry] = Field(
        default={}, description="the certificates, by name; each is computed for every smoothed defense"
    )
    defaults: Defaults = Defaults()
    pairings: Annotated[list[PairingEntry], Field(min_length=1)] | None = Field(
        default=None, description="which attacks are run on which defenses; by default all on all"
    )
    sweep: Annotated[dict[str, Values], Field(min_length=1)] | None = Field(
        default=None, description="arguments (defense.NAME.ARGUMENT, attack.NAME.ARGUMENT) and the values they take"
    )
    report: Report = Report()
