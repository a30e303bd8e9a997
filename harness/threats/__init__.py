"""Threat models whose images are drawn from stored parameters, one in a file; `docs/threats.md` lists them."""

from harness.threats.blurs import DefocusBlur, GaussianBlur, MotionBlur, ZoomBlur
from harness.threats.corruption import Corruption
from harness.threats.corruptions import (
    Brightness,
    Contrast,
    FogCorruption,
    GaussianNoise,
    ImpulseNoise,
    JPEGCompression,
    Pixelate,
    Saturate,
    ShotNoise,
    SpeckleNoise,
)
from harness.threats.distortions import ElasticTransform, GlassBlur, Spatter
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
"""Each by its name in suites and results; gradients lead through all of them."""

CORRUPTIONS: dict[str, type[Corruption]] = {
    threat.name: threat
    for threat in (
        *(GaussianNoise, ShotNoise, ImpulseNoise, SpeckleNoise, GaussianBlur, DefocusBlur, MotionBlur, ZoomBlur),
        *(FogCorruption, Brightness, Contrast, Saturate, Pixelate, JPEGCompression),
        *(GlassBlur, ElasticTransform, Spatter),
    )
}
"""Common corruptions, by their names, which no attacker chooses."""

__all__ = ["CORRUPTIONS", "PARAMETRIC", "RENDER_TOLERANCE", "Corruption", "Parametric"]
