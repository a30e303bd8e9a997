"""Threat models whose images are drawn from stored parameters, one in a file; `docs/threats.md` lists them."""

from harness.threats.elastic import Elastic
from harness.threats.fog import Fog
from harness.threats.gabor import Gabor
from harness.threats.hue import Hue, Saturation
from harness.threats.jpeg import JPEG
from harness.threats.parametric import RENDER_TOLERANCE, Parametric
from harness.threats.recolor import ReColorAdv
from harness.threats.snow import Snow

PARAMETRIC: dict[str, type[Parametric]] = {
    threat.name: threat for threat in (Elastic, JPEG, Fog, Snow, Gabor, Hue, Saturation, ReColorAdv)
}
"""Each by its name in suites and results."""

__all__ = ["PARAMETRIC", "RENDER_TOLERANCE", "Parametric"]
