"""Robust Diffusion Classifier: likelihood maximisation, then the diffusion classifier (paper Sec. 3.4, Algorithm 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from defenses.dc import DC
from defenses.diffusion.chunked_gradient import Passes
from defenses.diffusion.conditioning import ClassesOnly
from defenses.diffusion.likelihood import LikelihoodMaximization, Norm, Optimizer, SignGradient
from defenses.diffusion.loss import Reduction
from defenses.diffusion.noise import Share
from defenses.diffusion.random_times import Times
from defenses.diffusion.timesteps import Spacing, Weighting
from harness.defense import SignSurrogate
from harness.errors import UserError
from harness.quantity import Quantity
from harness.search import Narrowing
from harness.weights import Checkpoint


class RDC(DC):
    """DC behind likelihood maximisation. BPDA differentiates the identity in place of the latter (paper Sec. 4.1).

    The exact gradient of the move is described in `defenses.diffusion.likelihood`. In Linf it is the identity as well,
    except at pixels stopped at 0 or 1 and unless `sign_gradient` says otherwise. In L2, and with Adam, it takes second
    derivatives of the network.

    The released code purifies by 5 steps of Adam, each on one random noise level in 0.4..0.6, without a bound on the
    distance: `optimizer: adam, steps: 5, purify_timesteps: {random: 1, low: 135, high: 200}, norm: L2, eta: 100` with
    an EDM weighting.

    Args:
        steps: N, steps of likelihood maximisation.
        norm: the norm of the ball and of the steps, Linf (Algorithm 1) or L2 (Appendix C.2).
        eta: how far an image may move in that norm; left out, the paper's 8/255 in Linf and 0.5 in L2.
        momentum: mu; 0 turns it off.
        purify_timesteps: timesteps of the unconditional loss, as in `timesteps`, or `{random: k}` drawn anew for each
            image and step, see `defenses.diffusion.random_times`; left out, those of the classifier.
        optimizer: "momentum" is Algorithm 1; the released code uses "adam", see `defenses.diffusion.adam`.
        learning_rate: the rate of "adam"; left out, the 0.05 of the released code.
        sign_gradient: how an attacker differentiates the sign of a step in Linf, see `defenses.diffusion.likelihood`:
            "zero" is the true derivative; "straight_through" and "tanh" may make attacks stronger. The logits of the
            defense do not depend on it.
        sign_temperature: tau of "tanh"; the smaller, the nearer to "zero".

    The other arguments are those of `DC`.
    """

    def __init__(
        self,
        weights: Checkpoint,
        *,
        network: dict[str, Any] | None = None,
        unconditional: Checkpoint | None = None,
        steps: int = 10,
        norm: Norm = "Linf",
        eta: Quantity | None = None,
        momentum: float = 1.0,
        purify_timesteps: Times | None = None,
        optimizer: Optimizer = "momentum",
        learning_rate: float | None = None,
        sign_gradient: SignGradient = "zero",
        sign_temperature: float = 1.0,
        timesteps: Literal["all"] | int | list[int] = "all",
        spacing: Spacing = "uniform",
        weighting: Weighting = "uniform",
        samples: int = 1,
        noise: Literal["fresh", "fixed"] = "fresh",
        share_noise: Share = "none",
        reduction: Reduction = "mean",
        prior: list[float] | None = None,
        gradient_passes: Passes = "auto",
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__(
            weights,
            network=network,
            unconditional=unconditional,
            timesteps=timesteps,
            spacing=spacing,
            weighting=weighting,
            samples=samples,
            noise=noise,
            share_noise=share_noise,
            reduction=reduction,
            prior=prior,
            gradient_passes=gradient_passes,
            chunk=chunk,
            graph_memory=graph_memory,
        )
        if isinstance(self.denoiser, ClassesOnly):
            raise UserError(
                f"the network of '{Checkpoint.find(weights).ref}' was never trained without a class, which likelihood "
                "maximisation needs",
                remedy="Name an unconditional network under `unconditional:`",
            )
        chosen: Times = timesteps if purify_timesteps is None else purify_timesteps
        grid, draws = self.drawn_grid(chosen, spacing, name="purify_timesteps")
        self.maximization = LikelihoodMaximization(
            replace(self.loss, grid=grid),
            steps=steps,
            norm=norm,
            eta=eta,
            momentum=momentum,
            sign_gradient=sign_gradient,
            sign_temperature=sign_temperature,
            draws=draws,
            optimizer=optimizer,
            learning_rate=learning_rate,
        )

    def purify(self, x: Tensor) -> Tensor:
        return self.maximization(x, self.noise_seeds(x), self.narrowing_for(x))

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        return self.maximization.sign_surrogates()

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        maximization = replace(self.maximization, sign_gradient=surrogate)
        return maximization(x, self.noise_seeds(x), self.narrowing_for(x))

    def cost(self) -> float:
        """Classification, and likelihood maximisation before it."""
        return super().cost() + self.maximization.cost()

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        return super().narrowed_cost(narrowing) + self.maximization.narrowed_cost(narrowing)
