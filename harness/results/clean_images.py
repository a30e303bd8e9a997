"""The images of a run before any attack. Results do not keep them, so they are loaded again, as the manifest says."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from harness.datasets.by_name import load_section
from harness.datasets.dataset import Dataset
from harness.datasets.spec import Dataset as Section
from harness.errors import UserError
from harness.results.manifest import Manifest


def section_of(manifest: Manifest) -> Section:
    """The `dataset` section of the suite, as resolved, without its paths and classes.

    Raises:
        UserError: it is not valid.
    """
    written = {key: value for key, value in manifest.resolved.dataset.items() if key not in ("path", "classes")}
    try:
        return Section.model_validate_json(json.dumps(written), strict=True)
    except ValidationError as error:
        raise UserError("what the manifest says of the dataset, as resolved, is no choice of images") from error


def load_clean(
    manifest: Manifest, root: Path, folder: Path, base: Path | None = None, *, offline: bool = False
) -> Dataset:
    """The images of a run in the run's order, from the dataset on this machine.

    Args:
        root: the results directory, which keeps images that were given in Python.
        folder: the folder that the suite's relative paths refer to.
        base, offline: as for `harness.datasets.load`.

    Raises:
        UserError: the dataset is missing or does not have those images, or the manifest does not say what it is.
    """
    facts = manifest.dataset
    update = {"path": manifest.data_path(root, folder), "classes": facts.labels, "num_classes": None}
    section = section_of(manifest).model_copy(update=update)
    return load_section(section, base, lambda _: facts.indices, offline=offline)
