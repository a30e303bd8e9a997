"""Randomized smoothing of any defense: Gaussian noise, then the defense (Cohen et al., 2019).

    f(x) = classifier(x + sigma e),    e ~ N(0, I), drawn anew in each call

A majority of its votes is the smoothed classifier. `harness.certification.smoothing` has the certificate.
"""

from __future__ import annotations

from torch import Tensor

from harness.certification.smoothed import SmoothedDefense
from harness.defense import Defense, SignSurrogate
from harness.quantity import Quantity
from harness.search import Narrowing
from harness.suite.nested import InnerDefense, built


class Smoothed(SmoothedDefense):
    """Any defense behind Gaussian noise. The noisy image is not clipped to [0, 1]. BPDA differentiates the draw.

    Args:
        classifier: the base classifier, an entry of its own; in Python also an instance. It may be random itself.
        sigma: the standard deviation of the noise, on the [0, 1] scale of images.

    Raises:
        UserError: sigma is not positive.
    """

    def __init__(self, classifier: InnerDefense, sigma: Quantity) -> None:
        super().__init__(sigma)
        self.classifier: Defense = built(classifier)
        self.num_classes = self.classifier.num_classes

    def purify_noisy(self, x: Tensor) -> Tensor:
        return self.classifier.purify(x)

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier.classify(x)

    def purify_surrogate(self, x: Tensor) -> Tensor:
        return self.classifier.purify_surrogate(self.noised(x))

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        return self.classifier.sign_surrogates()

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        return self.classifier.purify_with_surrogate(self.noised(x), surrogate)

    def logit_scale(self, x: Tensor) -> float:
        return self.classifier.logit_scale(x)

    def cost(self) -> float:
        return self.classifier.cost()

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        return self.classifier.narrowed_cost(narrowing)
