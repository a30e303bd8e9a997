"""Where the checks of a diagnosis were published."""

from __future__ import annotations

RDC = "Chen et al., Robust Classification via a Single Diffusion Model, 2024, Sec. 4.4"
OBFUSCATED = "Athalye, Carlini & Wagner, Obfuscated Gradients Give a False Sense of Security, 2018, Sec. 3.1"
EVALUATING = "Carlini et al., On Evaluating Adversarial Robustness, 2019"
ADAPTIVE = "Tramèr et al., On Adaptive Attacks to Adversarial Example Defenses, 2020"
ENSEMBLE = "Tramèr et al., Ensemble Adversarial Training, 2018"
AUTOATTACK = "Croce & Hein, Reliable Evaluation of Adversarial Robustness, 2020"
EOT = "Athalye et al., Synthesizing Robust Adversarial Examples, 2018"
COMPRESSION = "Yuezhang & Wei, How Do Diffusion Models Improve Adversarial Robustness?, 2025 (arXiv:2505.22839)"
INDICATORS = "Pintor et al., Indicators of Attack Failure, 2022"
