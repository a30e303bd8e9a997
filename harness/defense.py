"""A defended classifier: images in, logits out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from harness.config.caps import CAPS, capped
from harness.randomness import Seeds, derive, fenced, fold, sum_of, worked_out
from harness.search import Narrowing

INNER = derive("inner defense")
"""A tag that makes the noise of a defense inside another one independent of the outer one's."""

SignSurrogate = Literal["straight_through", "tanh"]
"""What may stand for the derivative of a sign, which is zero."""


class Call(NamedTuple):
    """What the harness fixes for one call of a defense: seeds, one per image, and what it may leave out."""

    seeds: Seeds | None
    narrowing: Narrowing | None


OUTSIDE = Call(None, None)
"""Of a call that the harness did not make."""


class Defense(nn.Module):
    """Images (N, C, H, W) float32 in [0, 1] -> logits (N, K).

    A subclass writes `classify`, and `purify` if it transforms images before it classifies them. Normalisation belongs
    inside: attacks work in [0, 1]. Constructor arguments are the keys of the suite's entry, checked against their
    annotations.

    A call must not change the defense (its parameters, buffers and training mode) or settings of the process. It may
    write into its input, which is a copy.

    A defense that draws noise sets `stochastic = True` and takes the noise from `self.seeds_for(x)`, one seed per
    image, with the functions of `harness.randomness`. It may also draw from the global generators of torch, NumPy or
    `random`. Such noise belongs to a whole batch and not to an image, so the harness then evaluates the defense image
    by image (see `harness.predict`): no result depends on the batch size, but a batch takes about as long as one call
    per image. Any other source, such as a `torch.Generator` of its own or `numpy.random.default_rng()`, is outside the
    harness's control: results cannot be repeated, and the numbers are marked.

    Attributes:
        stochastic: whether two calls on the same input may differ.
        version: raise it when the same arguments come to mean a different function; it is part of a result's identity.
        backward_cost: time of a backward pass to the image, in forward passes, for `harness show`. For a plain network
            it was measured as 1.2; a defense that recomputes its forward pass during the backward pass costs 2.2.
        memory_knobs: constructor arguments that change speed or memory but no number; they are not part of a result's
            identity.
        caps: upper limits, in `harness run --smoke`, of the arguments that decide how long the defense takes.
        num_classes: K, if it is known before the first image is classified.
        expected_accuracy: clean accuracy in [0, 1] on the test split, as stated on the checkpoint's card.
        expected_dataset: the dataset on which the card's accuracy was measured.
        smoothing_sigma: the standard deviation of the noise that a smoothed defense adds to its input before anything
            else (`harness.certification.smoothed`); None for every other defense.
        noise_seed: the seed of noise that is the same in every call, so that the attacker knows it; reports mark such
            a defense. None for every other one.

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
    backward_cost: float = 1.2
    memory_knobs: ClassVar[tuple[str, ...]] = ()
    caps: ClassVar[Mapping[str, int]] = CAPS
    num_classes: int | None = None
    expected_accuracy: float | None = None
    expected_dataset: str | None = None
    smoothing_sigma: float | None = None
    noise_seed: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._call = OUTSIDE
        self._parts: _Parts | None = None
        self._one_by_one = False  # whether it was seen to draw from a global generator, see `harness.predict`

    def purify(self, x: Tensor) -> Tensor:
        """Purifies images: (N, C, H, W) -> (N, C, H, W), both in [0, 1]."""
        return x

    def classify(self, x: Tensor) -> Tensor:
        """Classifies purified images: (N, C, H, W) -> logits (N, K)."""
        raise TypeError(f"{type(self).__name__} must define classify(x)")

    def purify_surrogate(self, x: Tensor) -> Tensor:
        """The function that BPDA differentiates instead of `purify` (Athalye et al., 2018); by default the identity."""
        return x

    def purify_adjoint(self, x: Tensor) -> Tensor:
        """`purify` with an approximate derivative from the adjoint equation; for purifiers that integrate an SDE."""
        raise TypeError(f"{type(self).__name__} has no purify_adjoint(x)")

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        """What `purify_with_surrogate` can put in place of the derivative of a sign; nothing, unless overridden."""
        return ()

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        """`purify` to the bit, with a surrogate for the derivative of the sign that it takes."""
        raise TypeError(f"{type(self).__name__} has no purify_with_surrogate(x, {surrogate!r})")

    def coarser(self, steps: int) -> Defense:
        """This defense with at most `steps` steps of its purification, which are longer: a surrogate for attacks.

        An attack differentiates it in place of the defense, at a fraction of the cost; no verdict rests on it. It
        shares its networks with the defense. Purifiers that go a way of many steps define it.

        Source:
            The surrogate process of Lee and Kim, 2023 (arXiv:2303.09051), Sec. 4.
        """
        raise TypeError(f"{type(self).__name__} has no coarser(steps)")

    def sharing(self, **changes: Any) -> Self:
        """A copy that shares all networks, in which these attributes are others; this defense stays as it is."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other._call, other._parts = OUTSIDE, None
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.purify(x))

    def defines(self, method: str) -> bool:
        """Whether the defense has a method of its own, such as "purify", and not the one it has by default."""
        return getattr(type(self), method) is not getattr(Defense, method)

    def cost(self) -> float:
        """The number of network evaluations in one image's forward pass; `harness show` multiplies by it."""
        return 1.0

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        """The cost of a narrowed query (see `harness.search`); `cost()` for a defense that ignores narrowing."""
        return self.cost()

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Defense], dict[str, Any]]:
        """A cheap version of the defense for `harness run --smoke`: the same code and networks, in little time.

        Args:
            arguments: the arguments of this class's constructor, defaults included, under the names used in suites.

        Returns:
            The class to build, and the arguments of its constructor. Unless overridden, these are this class and the
            given arguments, limited by `caps`.

        Example:
            A class overrides this method if `caps` cannot express what its cost depends on:

            >>> class Annealed(Defense):
            ...     @classmethod
            ...     def reduced(cls, arguments):
            ...         cls, arguments = super().reduced(arguments)
            ...         return cls, {**arguments, "levels": 2}
        """
        return cls, capped(arguments, cls.caps)

    def logit_scale(self, x: Tensor) -> float:
        """The factor that turns logits of images like x into log-probabilities, up to a constant shared by all classes.

        A defense that divides log-likelihoods by the number of pixels, for example, returns that number. It is needed
        by attacks that weigh log p(y | x) against a defense's `energy(x)`, which is always in the units of -log p(x).
        """
        return 1.0

    def seeds_for(self, x: Tensor) -> Tensor:
        """The seed of each image's noise in this call: (N,) int64.

        Inside the harness they are derived from the suite's seed, the names of defense and attack, the index of the
        image and the draw. Outside, they come from torch's global generator, so that a bare `defense(x)` behaves like
        any stochastic module.
        """
        if self._call.seeds is None:
            return torch.randint(2**62, (len(x),)).to(x.device)
        seeds = worked_out(self._call.seeds)
        if len(seeds) != len(x):
            raise ValueError(f"{len(seeds)} noise seeds for a batch of {len(x)} images")
        return seeds

    def narrowing_for(self, x: Tensor) -> Narrowing | None:
        """The classes and timesteps that this call may leave out; None in all calls but those of an attack's search.

        A defense may ignore it, see `harness.search`: it affects what an attack sees, and never a verdict.
        """
        return self._call.narrowing

    @contextmanager
    def drawing(
        self, seeds: Seeds, narrowing: Narrowing | None = None, *, global_seed: int | None = None
    ) -> Iterator[Callable[[], bool]]:
        """Fixes every source of randomness for the calls inside. seeds: (N,) int64, one per row of the coming batch.

        Defenses inside this one get seeds of their own, derived from these. Like `fenced`, it yields a function that
        returns whether anything was drawn from a global generator so far. The noise of an image then depends on its
        position in the batch.

        Args:
            narrowing: what the call may leave out, for the same rows.
            global_seed: the seed of the global generators. By default it is the sum of the seeds if they are known and
                on the CPU. Otherwise it is 0, because reading them would make the host wait for the device; global
                draws are then the same in every call, so a caller that uses them must pass a seed.
        """
        if self._parts is None:
            self._parts = _Parts(self)
        parts = self._parts.all
        previous = [part._call for part in parts]
        for place, part in enumerate(parts):
            part._call = Call(partial(_inner, seeds, place) if place else seeds, narrowing)
        try:
            if global_seed is None:
                global_seed = sum_of(seeds) if isinstance(seeds, Tensor) and seeds.device.type == "cpu" else 0
            with fenced(global_seed) as drawn:
                yield drawn
        finally:
            for part, before in zip(parts, previous, strict=True):
                part._call = before

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x)


def _inner(seeds: Seeds, place: int) -> Tensor:
    """Seeds of a defense inside another, (N,). place: which of them it is."""
    return fold(worked_out(seeds), INNER, place)


class _Parts:
    """The defenses among a defense's modules, in the order of `modules()`, looked up once.

    One that is added later is not among them: it takes its seeds from the global generators, as it would outside, and
    the harness then asks image by image.
    """

    def __init__(self, root: Defense) -> None:
        self.all = tuple(part for part in root.modules() if isinstance(part, Defense))
