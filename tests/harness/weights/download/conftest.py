"""The web server that downloads come from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.weights import download
from helpers.site import Site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HARNESS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    found = Site()
    yield found
    found.server.shutdown()
    found.server.server_close()
