"""Threat models whose images are drawn from stored parameters, one in a file; `docs/threats.md` lists them."""

from harness.threats.elastic import Elastic
from harness.threats.jpeg import JPEG
from harness.threats.parametric import RENDER_TOLERANCE, Parametric

PARAMETRIC: dict[str, type[Parametric]] = {threat.name: threat for threat in (Elastic, JPEG)}
"""Each by its name in suites and results."""

__all__ = ["PARAMETRIC", "RENDER_TOLERANCE", "Parametric"]
