"""What mkdocs calls while it builds the site: adds the generated pages, and points links to files that become pages."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from site_pages import pages, relinked


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page of docs/ may link to files of the repository that the site does not have."""
    if page.file.generated_by:
        return markdown
    path = PurePosixPath(page.file.src_uri)
    return relinked(markdown, PurePosixPath("docs") / path.parent, path)
