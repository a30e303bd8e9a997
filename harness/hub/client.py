"""The Hugging Face Hub, or the server that the environment variable HF_ENDPOINT names.

The package huggingface_hub finds the user's token: $HF_TOKEN, or what `hf auth login` has stored.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Literal

from harness.errors import UserError, one_line
from harness.settings import offline

Kind = Literal["dataset", "model"]


def upload(repository: str, kind: Kind, files: Mapping[str, bytes | Path], message: str, *, private: bool) -> str:
    """Writes files to a repository, which is made if there is none. Returns its address.

    Args:
        repository: "OWNER/NAME".
        files: their contents, or files on disk, by the names that they get.

    Raises:
        UserError: the package is missing, the network is off or does not answer, or the Hub refuses.
    """
    hub = _package()
    api = hub.HfApi(endpoint=_endpoint())
    with _plainly(hub, repository):
        url = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        operations = [
            hub.CommitOperationAdd(
                path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content)
            )
            for name, content in files.items()
        ]
        api.create_commit(repository, operations, commit_message=message, repo_type=kind)
    return str(url)


def download(repository: str, kind: Kind, names: tuple[str, ...], folder: Path, revision: str | None) -> list[Path]:
    """Fetches files of a repository into a folder. Raises the errors of `upload`."""
    hub = _package()
    api = hub.HfApi(endpoint=_endpoint())
    with _plainly(hub, repository):
        return [
            Path(api.hf_hub_download(repository, name, repo_type=kind, revision=revision, local_dir=folder))
            for name in names
        ]


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _package() -> ModuleType:
    if offline():
        raise UserError("the network is switched off", remedy="Leave out --offline, or unset HARNESS_OFFLINE")
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            f"the package 'huggingface_hub' is not installed ({error})",
            remedy="Install it: pip install 'adversarial-harness[hub]'",
        ) from error


@contextmanager
def _plainly(hub: ModuleType, repository: str) -> Iterator[None]:
    """Tells every failure of the Hub, of the network and of the package as a mistake with a remedy."""
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"'{repository}' is no name of a repository", remedy="Write OWNER/NAME") from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repository} is only for those whom its owner admits", remedy="Ask for access on its page"
        ) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(
            f"{repository} is not on the Hub, is not what you ask for, or is not yours to see ({_first_line(error)})",
            remedy="Check the name, --weights and --revision, and log in with: hf auth login",
        ) from error
    except errors.HfHubHTTPError as error:
        raise UserError(
            f"the Hub refuses {repository}: {_first_line(error)}",
            remedy="Log in with: hf auth login; the token needs the right to write",
        ) from error
    except Exception as error:  # of whichever library the package speaks HTTP with
        raise UserError(
            f"{repository} cannot be reached: {one_line(error)}",
            remedy="Check the network, and HF_ENDPOINT if you set it",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
