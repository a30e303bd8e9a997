"""A suite can name each published architecture."""

from __future__ import annotations

import pytest

from harness.config import registry


@pytest.mark.parametrize("name", ["edm", "hybvit", "jem_wrn", "ncsnpp", "pat_resnet", "wrn_dropout"])
def test_published_networks_have_names(name: str) -> None:
    assert registry.find("networks", name).__module__ == f"defenses.networks.{name}"
    assert name in {entry.name for entry in registry.entries("networks")}
