"""The attacker who knows the noise: a stochastic defense with its noise fixed (derandomised).

    f(x) = classifier(x; s),    the seed s is the same in every call: the attack's, and the verdict's

An attacker cannot know the noise of a defense that draws it anew. This shows how much of its robustness rests on that:
attacks follow the gradient of one known function, and one vote decides. Such a number is not about the defense as it is
deployed, and every report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.datasets.spec import Seed
from harness.defense import Defense, SignSurrogate
from harness.errors import UserError
from harness.randomness import Seeds, derive, worked_out
from harness.search import Narrowing
from harness.suite.nested import InnerDefense, built


class FixedNoise(Defense):
    """A stochastic defense under one draw of its noise, which the attacker knows. The draw is the same for all images.

    Args:
        classifier: the stochastic defense, an entry of its own; in Python also an instance.
        seed: which draw; a sweep over it shows how much the number depends on the draw.

    Raises:
        UserError: the defense draws no noise.

    Source:
        Yuezhang and Wei, 2025 (arXiv:2505.22839), who find that under fixed noise purification by diffusion gains about
        24% on CIFAR-10, where earlier reports had about 70%.

    Example:
        >>> from defenses.canaries.input_dropout import InputDropout
        >>> from defenses.undefended import Undefended
        >>> from harness.predict import query
        >>> defense = FixedNoise(InputDropout(Undefended("digits-cnn"), 0.5), seed=0).eval()
        >>> x = torch.rand(1, 1, 8, 8)
        >>> bool(torch.equal(query(defense, x, torch.tensor([1])), query(defense, x, torch.tensor([2]))))
        True
    """

    def __init__(self, classifier: InnerDefense, seed: Seed = 0) -> None:
        super().__init__()
        self.classifier: Defense = built(classifier)
        if not self.classifier.stochastic:
            raise UserError(
                f"the classifier is a {type(self.classifier).__name__}, which draws no noise that could be fixed",
                remedy="Evaluate it as it is, without fixed_noise",
            )
        self.num_classes, self.backward_cost = self.classifier.num_classes, self.classifier.backward_cost
        self.noise_seed = seed
        self._draw = derive("fixed noise", seed)

    @contextmanager
    def drawing(
        self, seeds: Seeds, narrowing: Narrowing | None = None, *, global_seed: int | None = None
    ) -> Iterator[Callable[[], bool]]:
        """Gives every image the one seed, whatever seeds the query has."""
        same = torch.full_like(seeds, self._draw) if isinstance(seeds, Tensor) else partial(self._same, seeds)
        with super().drawing(same, narrowing, global_seed=self._draw) as drawn:
            yield drawn

    def _same(self, seeds: Seeds) -> Tensor:
        return torch.full_like(worked_out(seeds), self._draw)

    def defines(self, method: str) -> bool:
        return self.classifier.defines(method)

    def __getattr__(self, name: str) -> Any:
        """The classifier's energy is its own: attacks ask whether there is one."""
        if name == "energy":
            inner: Any = super().__getattr__("classifier")
            return inner.energy
        return super().__getattr__(name)

    def purify(self, x: Tensor) -> Tensor:
        return self.classifier.purify(x)

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier.classify(x)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def purify_surrogate(self, x: Tensor) -> Tensor:
        return self.classifier.purify_surrogate(x)

    def purify_adjoint(self, x: Tensor) -> Tensor:
        return self.classifier.purify_adjoint(x)

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        return self.classifier.sign_surrogates()

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        return self.classifier.purify_with_surrogate(x, surrogate)

    def coarser(self, steps: int) -> Defense:
        return self.sharing(classifier=self.classifier.coarser(steps))

    def logit_scale(self, x: Tensor) -> float:
        return self.classifier.logit_scale(x)

    def cost(self) -> float:
        return self.classifier.cost()

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        return self.classifier.narrowed_cost(narrowing)
