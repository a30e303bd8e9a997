"""The page of a run, what a browser would make of it, and the pictures in it."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from harness.reporting import report

COUNT = 6
HOSTILE = "</script><script>window.stolen = true</script><img src=x onerror='window.stolen = true'>"


def page_of(root: Path, images: int | None = None) -> str:
    page = report(root, "html", images)
    assert isinstance(page, str)
    return page


class Parsed(HTMLParser):
    """What a browser would load, the policy, the tables' texts, and the data of the explorer."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.policy: str | None = None
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [found[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in found]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and self.scripts[-1] == "":
            self.scripts[-1] = data
        if data.strip():
            self.texts.append(" ".join(data.split()))


def decoded(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
