"""The parts of `run.json`: what is stored of a run beside its records, each value with a type and a largest size."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from harness.certification.smoothing import MOST_DRAWS
from harness.datasets.spec import Index, Seed, Split
from harness.process.visible_text import visible
from harness.suite.limits import MOST_CELLS, MOST_CLASSES, MOST_IMAGES, MOST_PLACES, MOST_VARIANTS, MOST_VOTES
from harness.suite.schema import Name, Percent

Text = Annotated[str, Field(max_length=10_000), AfterValidator(visible)]
Short = Annotated[str, Field(max_length=200), AfterValidator(visible)]
Hash = Annotated[str, Field(min_length=1, max_length=64)]
Names = Annotated[tuple[Name, ...], Field(max_length=MOST_CELLS)]
Images = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
Share = Annotated[float, Field(ge=0, le=1)]
Bytes = Annotated[int, Field(ge=1, le=1 << 50)]
Machine = Annotated[int, Field(ge=0, le=1_000_000)]

NOISE_KNOWN = " (noise known)"  # follows the label of a defense whose noise the attacker knows
DISAGREES = "disagrees"
"""The error type for two parts that are valid by themselves and contradict each other."""


class Facts(BaseModel):
    """A part of a manifest: of these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetFacts(Facts):
    """The images that were attacked. indices: their indices in the split, in the run's order; fingerprint: the hash of
    their content; labels: the labels of class folders; kept: whether they were passed in Python and are stored in the
    results directory.
    """

    name: Short
    split: Split
    count: Images
    indices: Annotated[tuple[Index, ...], Field(max_length=MOST_IMAGES)]
    fingerprint: Hash
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None = None
    labels: Annotated[dict[Text, Index], Field(max_length=MOST_CLASSES)] | None = None
    kept: bool = False

    @property
    def origin(self) -> str:
        """Where the images come from, as a text that follows "N images"."""
        return "given in Python" if self.kept else f"of {self.name} ({self.split})"


class ProtocolFacts(Facts):
    votes: int = Field(ge=1, le=MOST_VOTES)
    seed: Seed
    shard: Images
    batch_size: int = Field(default=256, ge=1, lt=2**31)
    gates: Literal["stop", "mark", "off"] = "mark"


class ReportFacts(Facts):
    """average, worst: the attacks of these columns, which are shown for two attacks or more. competitiveness:
    the best accuracy known for some attacks, see `harness.reporting.tables.ratio`. naive: the attacks of a
    naive evaluation, see `harness.reporting.stats.naive`. groups: headings, and the defenses below each. vote: the rule
    for the headline numbers.
    """

    average: Names = ()
    worst: Names = ()
    naive: Names = ()
    groups: Annotated[dict[Short, Names], Field(max_length=MOST_CELLS)] = {}
    reference: Name | None = None
    vote: Literal["single", "mean", "majority", "worst"] = "mean"
    competitiveness: Annotated[dict[Name, Percent], Field(max_length=MOST_CELLS)] | None = None


class DefenseFacts(Facts):
    """expected_accuracy, expected_dataset: clean accuracy as stated on the checkpoint's card, and its dataset. weights:
    remarks on how each checkpoint was loaded. smoothing_sigma: of a smoothed defense. noise_seed: of fixed noise.
    """

    label: Text | None = None
    type: Text | None = None
    stochastic: bool = False
    expected_accuracy: Share | None = None
    expected_dataset: Short | None = None
    smoothing_sigma: Annotated[float, Field(gt=0)] | None = None
    noise_seed: Seed | None = None
    weights: Annotated[dict[Text, Annotated[tuple[Text, ...], Field(max_length=1_000)]], Field(max_length=1_000)] = {}

    def title(self, name: str) -> str:
        """What every report calls the defense. name: its name in the suite, where it has no label."""
        return f"{self.label or name}{'' if self.noise_seed is None else NOISE_KNOWN}"


class AttackFacts(Facts):
    label: Text | None = None
    threat: Short | None = None


class SweepFacts(Facts):
    """A swept component of the suite, see `harness.suite.sweep.Sweep`. kind: "defenses" or "attacks"."""

    kind: Literal["defenses", "attacks"]
    name: Name
    label: Text
    paths: Annotated[tuple[Short, ...], Field(min_length=1, max_length=100)]
    variants: Annotated[dict[Name, tuple[Any, ...]], Field(max_length=MOST_VARIANTS)]

    @model_validator(mode="after")
    def _complete(self) -> SweepFacts:
        if any(len(values) != len(self.paths) for values in self.variants.values()):
            raise PydanticCustomError(DISAGREES, "every variant of a sweep has a value for each of its paths")
        return self


class NoiseFacts(Facts):
    """What the run measured of the gradients that an attack met, see `harness.checks.gradient_noise`."""

    cosine: Share
    images: Images


class CertificateFacts(Facts):
    """The numbers of draws of a certificate, and alpha, see `harness.certification.certificate.Certificate`."""

    n0: Annotated[int, Field(ge=1, le=MOST_DRAWS)]
    n: Annotated[int, Field(ge=1, le=MOST_DRAWS)]
    alpha: Annotated[float, Field(gt=0, lt=0.5)]


class CellFacts(Facts):
    """A pairing of a defense and an attack, or a certificate. method: a short description of the attack.

    Args:
        flags: the remarks of the gates.
        least_cosine: see `harness.attack.Attack.least_cosine`; None if an earlier version wrote the manifest.
        gradient_noise: None if there was nothing to measure, or if the run's gates were off; not set if an earlier
            version wrote the manifest.
        gpu_memory: the largest memory on a GPU that a shard took, in bytes; None if it was not measured. It decides
            how many shards share a GPU, and enters no key.
        certificate: what `attack` counted, if it is a certificate. nearest: see `harness.attack.Attack`.
        records: for each shard in order, the sha256 of its records file, which contains that of its images; None for a
            shard that was not finished. None in total if an earlier version of the harness wrote the manifest.
    """

    defense: Name
    attack: Name
    key: Annotated[str, Field(min_length=1, max_length=100)]
    threat: Short
    method: Text
    count: Images
    shard: Images
    flags: Annotated[tuple[Text, ...], Field(max_length=1_000)] = ()
    least_cosine: Share | None = None
    gradient_noise: NoiseFacts | None = None
    gpu_memory: Bytes | None = None
    certificate: CertificateFacts | None = None
    nearest: bool = False
    records: Annotated[tuple[Hash | None, ...], Field(max_length=MOST_IMAGES)] | None = None

    @property
    def name(self) -> str:
        return f"{self.defense}/{self.attack}"

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard)

    def recorded(self, start: int, stop: int) -> str | None:
        """The recorded hash of a shard, if there is one."""
        return self.records[start // self.shard] if self.records is not None and self.has(start, stop) else None

    def has(self, start: int, stop: int) -> bool:
        """Whether the images [start, stop) are a shard of this pairing."""
        return start % self.shard == 0 and start < self.count and stop == min(start + self.shard, self.count)


class SessionFacts(BaseModel):
    """The environment and start time of a process that attacked images."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    started: Short | None = None
    python: Short | None = None
    platform: Text | None = None
    packages: Annotated[dict[Short, Short | None], Field(max_length=1_000)] = {}
    device: Text | None = None
    cores: Machine | None = None
    threads: Machine | None = None
    git: Short | None = None


class Part(Facts):
    """A defense or attack as the suite resolved it."""

    type: Text
    arguments: Annotated[dict[Short, Any], Field(max_length=1_000)]


class Resolved(Facts):
    """The parts of the suite that affect results. cells: the attack of each pairing, by `DEFENSE/ATTACK`."""

    suite: Name
    dataset: Annotated[dict[Short, Any], Field(max_length=100)]
    protocol: Annotated[dict[Short, Any], Field(max_length=100)]
    defenses: Annotated[dict[Name, Part], Field(max_length=MOST_CELLS)]
    cells: Annotated[dict[Short, Part], Field(max_length=MOST_PLACES)]


def _part(value: dict[str, Any]) -> dict[str, Any]:
    """Checks the contents of a component (see `harness.suite.cell_key`) and of those inside it: texts by name."""
    for key, inner in value.items():
        if key in ("code", "files", "state", "cards") and not (
            isinstance(inner, dict) and all(isinstance(text, str) for text in inner.values())
        ):
            raise ValueError(f"'{key}' is not a mapping of names to texts")
        if isinstance(inner, dict) and key.endswith("]"):
            _part(inner)
    return value


Contents = Annotated[dict[str, Any], AfterValidator(_part)]


class Recorded(Facts):
    """Parts of the identity that are not in the suite, see `harness.suite.cell_key`. cells: as in `Resolved`."""

    defenses: Annotated[dict[Name, Contents], Field(max_length=MOST_CELLS)] = {}
    cells: Annotated[dict[Short, Contents], Field(max_length=MOST_PLACES)] = {}
