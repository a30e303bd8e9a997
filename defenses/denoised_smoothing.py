"""Denoised smoothing: noise, one denoising step of a diffusion model, any classifier (Carlini et al., 2023).

    f(x) = classifier(clamp(x^)),    x^ the model's estimate of the clean image from x + sigma e

The time of the step is the one whose noise is that of smoothing, see `defenses.diffusion.noised`. The model was not
trained for the classifier, nor the classifier for noise. A majority of votes is the smoothed classifier.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from defenses.diffusion.build import without_class
from defenses.diffusion.denoiser import adapted
from defenses.diffusion.noised import denoised_once, refuse_out_of_reach
from defenses.diffusion.schedule import ContinuousVE, Process, discrete_vp
from harness.certification.smoothed import SmoothedDefense
from harness.defense import Defense
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense, built
from harness.weights import Checkpoint


class DenoisedSmoothing(SmoothedDefense):
    """A classifier behind Gaussian noise and one denoising step. BPDA differentiates the noisy image.

    Args:
        weights: an unconditional diffusion network, or a class-conditional one that was also trained without a class.
            In Python also its name.
        classifier: the defense that classifies the denoised image, an entry of its own; in Python also an instance.
        sigma: the standard deviation of the noise, on the [0, 1] scale of images.
        network: the diffusion network's type and arguments, where its card does not give them.

    Raises:
        UserError: sigma is not positive, or beyond the network's diffusion; or a network that needs a class.

    Source:
        Carlini, Tramer, Dvijotham, Rice, Sun and Kolter, 2023 (arXiv:2206.10550).
    """

    def __init__(
        self, weights: Checkpoint, classifier: InnerDefense, sigma: Quantity, *, network: dict[str, Any] | None = None
    ) -> None:
        super().__init__(sigma)
        predictor = without_class(Checkpoint.find(weights), network)
        self.process: Process = ContinuousVE() if getattr(predictor, "predicts", None) == "edm" else discrete_vp()
        refuse_out_of_reach(self.process, float(sigma))
        self.denoiser = adapted(predictor, self.process)
        self.classifier: Defense = built(classifier)
        self.num_classes = self.classifier.num_classes

    def purify_noisy(self, x: Tensor) -> Tensor:
        return denoised_once(self.denoiser, self.process, x, float(self.sigma)).clamp(0, 1)

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def logit_scale(self, x: Tensor) -> float:
        return self.classifier.logit_scale(x)

    def cost(self) -> float:
        return 1 + self.classifier.cost()
