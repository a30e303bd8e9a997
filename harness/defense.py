"""A defended classifier: images in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.config.caps import CAPS, capped
from harness.randomness import derive, fenced, fold, sum_of
from harness.search import Narrowing

INNER = derive("inner defense")
"""Sets the noise of a defense inside another apart from the outer one's."""

SignSurrogate = Literal["straight_through", "tanh"]
"""What may stand for the derivative of a sign, which is zero."""


class Defense(nn.Module):
    """Images (N, C, H, W) float32 in [0, 1] -> logits (N, K).

    A subclass writes `classify`, and `purify` if it moves images before it looks at them. Normalisation belongs inside:
    attacks work in [0, 1]. Constructor arguments are the keys of the suite's entry, checked against their annotations.

    A call leaves the defense as it was (its parameters, buffers and training mode), and the settings of the process. It
    may write into its input, which is a copy.

    A defense that draws noise sets `stochastic = True` and takes the noise from `self.seeds_for(x)`, one seed per
    image, with the functions of `harness.randomness`. It may also draw from the global generators of torch, NumPy or
    `random`. Noise from there belongs to a whole batch and not to an image, so the harness then asks the defense image
    by image (see `harness.predict`): no result depends on the batch size, but every call takes about as long as that
    many calls. Any other source, such as a `torch.Generator` of its own or `numpy.random.default_rng()`, is outside the
    harness's control: nobody could repeat a result, and its numbers are marked.

    Attributes:
        stochastic: two calls on one input may differ.
        version: raise it when the same arguments start to mean another function; it is part of a result's identity.
        backward_cost: time of a backward pass to the image, in forward passes, for `harness show`. Through a network it
            was measured at 1.2; what computes its forward pass anew on the way back costs 2.2.
        memory_knobs: constructor arguments that change speed or memory but no number; left out of that identity.
        caps: the largest values in `harness run --smoke` of arguments that decide how long the defense takes.
        num_classes: K, where it is known before an image is seen.
        expected_accuracy: clean accuracy in [0, 1] on the test split, as the checkpoint's card states it.
        expected_dataset: the dataset that the card's accuracy was measured on.

    Example:
        >>> import torch
        >>> class Brightness(Defense):
        ...     def purify(self, x):
        ...         return x.round()
        ...
        ...     def classify(self, x):
        ...         mean = x.mean((1, 2, 3))
        ...         return torch.stack([1 - mean, mean], dim=1)
        >>> Brightness()(torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)).argmax(1)
        tensor([0, 1])
    """

    stochastic: bool = False
    version: ClassVar[int] = 1
    backward_cost: ClassVar[float] = 1.2
    memory_knobs: ClassVar[tuple[str, ...]] = ()
    caps: ClassVar[Mapping[str, int]] = CAPS
    num_classes: int | None = None
    expected_accuracy: float | None = None
    expected_dataset: str | None = None
    _narrowing: Narrowing | None = None

    def __init__(self) -> None:
        super().__init__()
        self._seeds: Tensor | None = None
        self._one_by_one = False  # whether it was seen to draw from a global generator, see `harness.predict`

    def purify(self, x: Tensor) -> Tensor:
        """Images -> images in [0, 1], both (N, C, H, W)."""
        return x

    def classify(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        raise TypeError(f"{type(self).__name__} must define classify(x)")

    def purify_surrogate(self, x: Tensor) -> Tensor:
        """What BPDA differentiates instead of `purify` (Athalye et al., 2018): the identity unless overridden."""
        return x

    def purify_adjoint(self, x: Tensor) -> Tensor:
        """`purify`, differentiated approximately by its adjoint equation; for purifiers that integrate one."""
        raise TypeError(f"{type(self).__name__} has no purify_adjoint(x)")

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        """What `purify_with_surrogate` can put in place of the derivative of a sign; nothing, unless overridden."""
        return ()

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        """`purify` to the bit, with a surrogate for the derivative of the sign that it takes."""
        raise TypeError(f"{type(self).__name__} has no purify_with_surrogate(x, {surrogate!r})")

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.purify(x))

    def cost(self) -> float:
        """Network evaluations that one image's forward pass takes; `harness show` multiplies by it."""
        return 1.0

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        """The same of a query that a search has narrowed: `cost()`, where a defense does not know how."""
        return self.cost()

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Defense], dict[str, Any]]:
        """The defense in small, for `harness run --smoke`: the same code and networks, in little time.

        Args:
            arguments: of this class's constructor, defaults included, by the names that a suite gives them.

        Returns:
            The class to build, and the arguments of its constructor; unless overridden, this class, with the arguments
            that `caps` names cut.

        Example:
            A class whose cost depends on more than `caps` can say overrides it:

            >>> class Annealed(Defense):
            ...     @classmethod
            ...     def reduced(cls, arguments):
            ...         cls, arguments = super().reduced(arguments)
            ...         return cls, {**arguments, "levels": 2}
        """
        return cls, capped(arguments, cls.caps)

    def logit_scale(self, x: Tensor) -> float:
        """What the logits of images like x are to be multiplied by to be log-probabilities, up to a common constant.

        A defense that divides log-likelihoods by the number of pixels, say, answers with that number. An attack asks
        that weighs log p(y | x) against a defense's `energy(x)`, which is always in the units of -log p(x).
        """
        return 1.0

    def seeds_for(self, x: Tensor) -> Tensor:
        """The seed of each image's noise in this call: (N,) int64.

        Inside the harness these are derived from suite seed, names, image index and draw. Outside, they come from
        torch's global generator, so that a bare `defense(x)` behaves like any stochastic module.
        """
        if self._seeds is None:
            return torch.randint(2**62, (len(x),)).to(x.device)
        if len(self._seeds) != len(x):
            raise ValueError(f"{len(self._seeds)} noise seeds for a batch of {len(x)} images")
        return self._seeds

    def narrowing_for(self, x: Tensor) -> Narrowing | None:
        """What this call may leave out, since it only serves an attack's search; None, most often, for nothing.

        A defense may heed it or not, see `harness.search`: it changes what an attack is told, and no verdict.
        """
        return self._narrowing

    @contextmanager
    def drawing(
        self, seeds: Tensor, narrowing: Narrowing | None = None, *, global_seed: int | None = None
    ) -> Iterator[Callable[[], bool]]:
        """Fixes every source of randomness for the calls inside. seeds: (N,) int64, one per row of the coming batch.

        Defenses inside this one get seeds of their own, derived from these. Yields a question, as `fenced` does: was
        anything drawn from a global generator, where the noise of an image depends on its place in the batch?

        Args:
            narrowing: what may be left out, of the same rows.
            global_seed: of the global generators; left out, the sum of the seeds where they lie on the CPU. Elsewhere
                it is 0, as reading them would make the host wait for the device: what is then drawn globally is the
                same in every call, and whoever wants to use it gives the seed.
        """
        parts = [part for part in self.modules() if isinstance(part, Defense)]
        previous = [(part._seeds, part._narrowing) for part in parts]
        for place, part in enumerate(parts):
            part._seeds, part._narrowing = fold(seeds, INNER, place) if place else seeds, narrowing
        try:
            if global_seed is None:
                global_seed = sum_of(seeds) if seeds.device.type == "cpu" else 0
            with fenced(global_seed) as drawn:
                yield drawn
        finally:
            for part, before in zip(parts, previous, strict=True):
                part._seeds, part._narrowing = before

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x)
