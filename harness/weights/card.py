"""The card of a checkpoint: a YAML file beside the checkpoint that describes it.

A suite or a recipe beside a checkpoint may have the same name as its card. Only a card has an entry `sha256`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.config import yaml_file
from harness.config.validation import parse

MARK = re.compile(rb"^[\"']?sha256[\"']?\s*:", re.MULTILINE)


class Card(BaseModel):
    """The description of a checkpoint: its network, its origin and its accuracy on clean images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="what a suite calls it")
    summary: str = Field(description="one line for people")
    network: dict[str, Any] = Field(description="architecture: its type and arguments, as in a suite")
    parameters: int = Field(description="learned numbers in the network")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the checkpoint file")
    dataset: str = Field(description="what it was trained and measured on")
    num_classes: int
    clean_accuracy: float = Field(ge=0, le=1, description="fraction of the dataset's test split classified correctly")
    measured: str = Field(description="how clean_accuracy was measured")
    recipe: str = Field(description="the recipe that made it, as a name under suites/train")
    seed: int
    steps: int
    licence: str
    source: str = Field(description="who made it, or the address it was published at")


def read_card(path: Path) -> Card | None:
    """Returns the card in a file, or None if there is no such file or if it is not a card.

    Raises:
        UserError: the card is not valid.
    """
    if not path.is_file() or not MARK.search(path.read_bytes()):
        return None
    return parse(Card, yaml_file.read(path).root, "the card")
