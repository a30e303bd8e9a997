"""Purification by few deterministic steps: noise up to t*, then DDIM (Song et al. 2021, arXiv:2010.02502).

    x(t*) = sqrt(alpha_{t*}) (2 x - 1) + sigma_{t*} eps,    x(t*) -> x(0),    purify(x) = clamp((x(0) + 1) / 2, 0, 1)

The only randomness is eps. A step of DDIM is exact as long as the network predicts the same noise, so that few steps
suffice where DiffPure takes a hundred. ADBM (Li et al. 2024, arXiv:2408.00315) purifies by few steps of DDIM, with a
network that was trained on adversarial images; with the packaged networks this is that sampler without that training.

With one step it is one-step denoising: the model's estimate of the clean image from x(t*). A suite names it
`one_step_denoising`. `denoised_smoothing` (Carlini et al. 2023, arXiv:2206.10550) takes the same step, at the time of
a chosen noise level, and can be certified.
"""

from __future__ import annotations

from typing import Any

from defenses.diffusion.build import denoiser_without_class
from defenses.diffusion.reverse import Implicit, spread_times
from defenses.diffusion.schedule import discrete_vp
from defenses.purification.purifier import SamplerPurifier
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense
from harness.weights import Checkpoint


class DDIM(SamplerPurifier):
    """Noise up to t*, and few deterministic DDIM steps back, in front of any classifier.

    Args:
        weights: an unconditional diffusion network, or a class-conditional one that was also trained without a class.
            In Python also its name.
        classifier: the defense that classifies the purified image, an entry of its own; in Python also an instance.
        network: the diffusion network's type and arguments, where its card does not give them.
        t_star: how much noise, a time in (0, 1], in thousandths.
        steps: how many steps lead from t* to 0. They are about equally long, in whole thousandths.
        rounds: how often noise is added and removed.
        chunk: images purified at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: a number out of its range, or a network that needs a class.

    Source:
        Song, Meng and Ermon, 2021 (arXiv:2010.02502), Eq. 12 with sigma = 0.

    Example:
        >>> import torch
        >>> from defenses.undefended import Undefended
        >>> defense = DDIM("digits-ncsnpp", Undefended("digits-cnn"), t_star=0.15, steps=3)
        >>> defense(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        weights: Checkpoint,
        classifier: InnerDefense,
        *,
        network: dict[str, Any] | None = None,
        t_star: Quantity = Quantity("0.1"),  # noqa: B008
        steps: int = 5,
        rounds: int = 1,
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        process = discrete_vp()
        denoiser = denoiser_without_class(weights, network, process)
        times = spread_times(t_star, steps, len(process))
        super().__init__(
            classifier, Implicit(denoiser, process, times), rounds=rounds, chunk=chunk, graph_memory=graph_memory
        )
