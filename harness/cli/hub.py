"""`harness push` and `harness pull`: runs and weights on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.process.console import echo, new_console

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hub.")]


def push(
    what: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="A run, or a safetensors file with its card.")],
    repository: Repository,
    private: Annotated[bool, typer.Option("--private", help="Make the repository visible to you alone.")] = False,
    suite: Annotated[
        Path | None, typer.Option(metavar="SUITE", help="The suite's file, to which relative paths refer.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Execute the code of a dataset that the results name.")
    ] = False,
) -> None:
    """Put a run or weights on the Hugging Face Hub. It needs the extra [hub], and a token that may write.

    A run becomes a dataset repository with its table, and the archive that `harness export` writes; weights become a
    model repository. The environment variable HF_ENDPOINT names another server than the Hub.

    Examples:

        harness push results/quickstart me/quickstart-robustness

        harness push weights/mine.safetensors me/my-network --private
    """
    from harness.hub.sharing import push_run, push_weights

    if what.is_file():
        echo(f"Wrote {push_weights(what, repository, private=private)}")
        return
    folder = suite.parent if suite else Path()
    url, exported = push_run(what, repository, folder=folder, trust=trust, private=private)
    echo(f"Wrote {url}: {exported.files} files, sha256 {exported.sha256}")
    for remark in exported.remarks:
        echo(remark)


def pull(
    repository: Repository,
    weights: Annotated[bool, typer.Option("--weights", help="Fetch weights, not a run.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="REVISION", help="A commit, branch or tag.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="By default results/SUITE, or NAME.safetensors for weights.")
    ] = None,
) -> None:
    """Fetch a run or weights from the Hugging Face Hub, and examine them; nothing in them is executed.

    Examples:

        harness pull me/quickstart-robustness --out results/theirs

        harness pull me/my-network --weights
    """
    from harness.hub.sharing import pull_run, pull_weights

    if weights:
        path = pull_weights(repository, out or Path(f"{repository.rpartition('/')[2]}.safetensors"), revision=revision)
        echo(f"Wrote {path} and its card. Name it in a suite as: weights: ./{path}")
        return
    done = pull_run(repository, out, revision=revision)
    for remark in done.remarks:
        echo(remark)
    new_console().print(f"Wrote {done.path}. See the table with: harness report {done.path}", markup=False)
