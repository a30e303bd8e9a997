"""The model of `run.json`, with a limit on the size of every part. The file is written and read through it only.

fields      each has a type and a largest size, because a file from someone else may contain anything
agreement   values that appear twice must agree: images, shards, names
seal        a sha256 of the whole content. It detects accidental edits; an attacker can recompute it
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from harness.certification.smoothing import MOST_DRAWS
from harness.datasets.spec import Index, Seed, Split
from harness.errors import Place, UserError
from harness.process.visible_text import visible
from harness.results.record import SCHEMA_VERSION
from harness.results.store import KEPT_IMAGES, MANIFEST, Store
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


class Contradiction(UserError):
    """Two parts of a manifest contradict each other."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetFacts(_Facts):
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


class ProtocolFacts(_Facts):
    votes: int = Field(ge=1, le=MOST_VOTES)
    seed: Seed
    shard: Images
    batch_size: int = Field(default=256, ge=1, lt=2**31)
    gates: Literal["stop", "mark", "off"] = "mark"


class ReportFacts(_Facts):
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


class DefenseFacts(_Facts):
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


class AttackFacts(_Facts):
    label: Text | None = None
    threat: Short | None = None


class SweepFacts(_Facts):
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


class NoiseFacts(_Facts):
    """What the run measured of the gradients that an attack met, see `harness.checks.gradient_noise`."""

    cosine: Share
    images: Images


class CertificateFacts(_Facts):
    """The numbers of draws of a certificate, and alpha, see `harness.certification.certificate.Certificate`."""

    n0: Annotated[int, Field(ge=1, le=MOST_DRAWS)]
    n: Annotated[int, Field(ge=1, le=MOST_DRAWS)]
    alpha: Annotated[float, Field(gt=0, lt=0.5)]


class CellFacts(_Facts):
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


class Part(_Facts):
    """A defense or attack as the suite resolved it."""

    type: Text
    arguments: Annotated[dict[Short, Any], Field(max_length=1_000)]


class Resolved(_Facts):
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


class Recorded(_Facts):
    """Parts of the identity that are not in the suite, see `harness.suite.cell_key`. cells: as in `Resolved`."""

    defenses: Annotated[dict[Name, Contents], Field(max_length=MOST_CELLS)] = {}
    cells: Annotated[dict[Short, Contents], Field(max_length=MOST_PLACES)] = {}


class Manifest(_Facts):
    """The content of `run.json`. settings: values set from outside the suite's file, see `harness.suite.overrides`."""

    schema_version: int
    harness: Short
    suite: Name
    title: Text | None = None
    dataset: DatasetFacts
    protocol: ProtocolFacts
    report: ReportFacts = ReportFacts()
    defenses: Annotated[dict[Name, DefenseFacts], Field(max_length=MOST_CELLS)]
    attacks: Annotated[dict[Name, AttackFacts], Field(max_length=MOST_CELLS)]
    certificates: Annotated[dict[Name, AttackFacts], Field(max_length=MOST_CELLS)] = {}
    cells: Annotated[tuple[CellFacts, ...], Field(max_length=MOST_CELLS)]
    sweeps: Annotated[tuple[SweepFacts, ...], Field(max_length=1_000)] = ()
    settings: Annotated[tuple[Text, ...], Field(max_length=1_000)] = ()
    sessions: Annotated[tuple[SessionFacts, ...], Field(max_length=10_000)] = ()
    resolved: Resolved
    contents: Recorded = Recorded()
    seal: Hash | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        if fault := next(_disagreements(self), None):
            raise PydanticCustomError(DISAGREES, "{fault}", {"fault": fault})
        return self

    def data_path(self, root: Path, folder: Path) -> Path | None:
        """The path of the attacked dataset; None for a dataset that is found by its name.

        Args:
            root: the results directory.
            folder: the folder that the suite's relative paths refer to.
        """
        written = self.resolved.dataset.get("path")
        if self.dataset.kept:
            return root / KEPT_IMAGES
        return folder / written if isinstance(written, str) else None

    def document(self) -> dict[str, Any]:
        """The content for `run.json`, without values that were not set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def hash(self) -> str:
        """The seal that matches the content."""
        content = {key: value for key, value in self.document().items() if key != "seal"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def edited(self) -> bool:
        """Whether the manifest was changed after it was written."""
        return self.seal is not None and self.seal != self.hash()


def find_manifest(store: Store) -> Manifest | None:
    """Reads the manifest of a store; None if no run has begun.

    Raises:
        Contradiction: two parts of it contradict each other.
        UserError: a part is missing or not valid.
    """
    raw = store.manifest()
    if raw is None:
        return None
    try:
        return _validated(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:200]
        kind = Contradiction if first["type"] == DISAGREES else UserError
        raise kind(
            f"'{place}' of this manifest: {_reason(first['msg'])}" if place else f"this manifest: {first['msg']}",
            remedy="It was edited, or another version of the harness wrote it; run the suite into a new directory",
            where=Place(store.root / MANIFEST),
        ) from error


def read_manifest(store: Store) -> Manifest:
    """Reads the manifest of a store. Raises the errors of `find_manifest`, and UserError if there is none."""
    manifest = find_manifest(store)
    if manifest is None:
        raise UserError(
            "this directory has no manifest: no run has begun in it",
            remedy="Start one with `harness run SUITE`, or give the directory of a run, such as results/SUITE",
            where=Place(store.root / MANIFEST),
        )
    return manifest


def write_manifest(store: Store, content: dict[str, Any]) -> None:
    """Writes a manifest with its seal.

    Raises:
        UserError: it exceeds the limits of a manifest, or cannot be written.
    """
    try:
        manifest = _validated({**content, "schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UserError(
            f"these results do not fit into {MANIFEST}: '{'.'.join(map(str, first['loc']))}', {_reason(first['msg'])}",
            remedy="Split the suite into smaller ones",
        ) from error
    store.write_manifest({**manifest.document(), "seal": manifest.hash()})


def _validated(content: dict[str, Any]) -> Manifest:
    """Validates content as strict JSON: a list becomes a tuple, but "3" is not 3, and true is not 1."""
    return Manifest.model_validate_json(json.dumps(content), strict=True)


def _reason(text: str) -> str:
    return text[:1].lower() + text[1:]


def _disagreements(manifest: Manifest) -> Iterator[str]:
    """Lists the contradictions between parts of a manifest."""
    dataset, protocol, resolved = manifest.dataset, manifest.protocol, manifest.resolved
    if dataset.count != len(dataset.indices):
        yield f"the dataset has {dataset.count} images, and {len(dataset.indices)} indices"
    if len(set(dataset.indices)) < len(dataset.indices):
        yield "the dataset has an image twice"
    if len(manifest.defenses) * max(1, len(manifest.attacks)) > MOST_PLACES:
        yield f"the table would have more than {MOST_PLACES} places"
    pairs = Counter(cell.name for cell in manifest.cells)
    if pairs and (most := pairs.most_common(1)[0])[1] > 1:
        yield f"the pairing {most[0]} appears twice"
    for cell in manifest.cells:
        if cell.defense not in manifest.defenses:
            yield f"the pairing {cell.name} has a defense that is not among 'defenses'"
            continue
        if cell.certificate and manifest.defenses[cell.defense].smoothing_sigma is None:
            yield f"the pairing {cell.name} is a certificate of a defense that is not smoothed"
        if cell.count != dataset.count:
            yield f"the pairing {cell.name} has {cell.count} images, the dataset {dataset.count}"
        if cell.shard != protocol.shard:
            yield f"the pairing {cell.name} has shards of {cell.shard} images, the protocol {protocol.shard}"
        if cell.records is not None and len(cell.records) != cell.shards:
            yield f"the pairing {cell.name} has {cell.shards} shards, and {len(cell.records)} hashes"
    if resolved.suite != manifest.suite:
        yield f"the suite is '{manifest.suite}', and '{resolved.suite}' as resolved"
    for name in ("votes", "seed", "shard"):
        if resolved.protocol.get(name) != (value := getattr(protocol, name)):
            yield f"the protocol's {name} is {value}, and {str(resolved.protocol.get(name))[:60]} as resolved"
    for key, value in (("name", dataset.name), ("split", dataset.split)):
        if resolved.dataset.get(key) != value:
            yield f"the dataset's {key} is '{value}', and {str(resolved.dataset.get(key))[:60]!r} as resolved"
    for name, facts in manifest.defenses.items():
        part = resolved.defenses.get(name)
        if part and facts.type is not None and facts.type != part.type:
            yield f"the type of defense '{name}' is '{facts.type}', and '{part.type}' as resolved"
