"""`harness.evaluate`: a model, attacks and data given in Python, through the same engine as a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from harness.api.attacks import Attacks, Budget
from harness.api.data import data_of
from harness.api.models import Model, ModelFacts, defenses_of
from harness.api.place import calling_line
from harness.api.plan import plan_of
from harness.api.results import Results
from harness.callback import SILENT, Callback
from harness.errors import Place, UserError
from harness.evaluation.engines.choose import choose
from harness.evaluation.run import run
from harness.quantity import Quantity
from harness.settings import device_of

if TYPE_CHECKING:
    import torch

    from harness.api.data import Data


def evaluate(
    model: Model | Mapping[str, Model],
    attacks: Attacks = "quick",
    *,
    data: Data,
    split: Literal["test", "train"] = "test",
    size: int | None = None,
    num_classes: int | None = None,
    norm: str | None = None,
    eps: str | float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stochastic: bool = False,
    votes: int = 5,
    seed: int = 0,
    batch_size: int = 256,
    shard: int = 32,
    gates: Literal["mark", "stop", "off"] = "mark",
    name: str | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    callback: Callback = SILENT,
    retry_errors: bool = True,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    address: str | None = None,
    gpu_share: float | None = None,
    timeout: float | None = None,
) -> Results:
    """Attacks a classifier, and judges every image by what the classifier itself answers.

    The model is copied: it, the settings of PyTorch and the random generators stay as they are. The gates, votes,
    budget checks and records are those of `harness run`; docs on them are in the README.

    Args:
        model: images (N, C, H, W), float32 in [0, 1], to logits (N, K): a `Defense`, any other module of PyTorch, or a
            function, which is given images on the chosen device. Or several of these by name.
        attacks: the name of a preset ("quick", "standard", "adaptive") or of an attack, an entry as in a suite such as
            {"type": "pgd", "steps": 40}, an `Attack`; or a list of these, or several by the names that columns get. See
            `attacks/presets.yaml`.
        data: the name of a dataset; the path of a folder, a zip or an .npz file; (images, labels), of shapes
            (N, C, H, W) in [0, 1] and (N,); or a `torch.utils.data.Dataset` of such pairs. Images that come as an
            object are kept beside the results, and their index in records counts the chosen ones.
        split: of a dataset that has a name or a path.
        size: so many images, drawn without replacement by the seed 0, so that a smaller size is the start of a larger
            one; all if left out.
        num_classes: how many classes the data have, where they do not say; then a model with another number of logits
            is refused.
        norm, eps: the budget on the [0, 1] scale, of attacks that do not bring their own: "Linf", "L2" or "L1", and a
            number or a text such as "8/255". Left out, Linf and what papers use for the dataset or the size of the
            images (CIFAR-10: 8/255; digits: 0.2); the table names it.
        mean, std: normalisation by channel, for a model that is not a `Defense` and expects (x - mean) / std.
        stochastic: whether two calls on one image may differ; a `Defense` says so itself.
        votes: draws that a stochastic defense answers with, per image.
        seed: every random number of the run derives from it.
        batch_size: images sent through the model at once; no result depends on it.
        shard: images attacked together, the unit of storing and resuming.
        gates: what happens when the model fails an examination before it is attacked: its numbers are marked, or
            nothing is run.
        name: what reports call the model; left out, its class or function.
        out: a directory that keeps the results as `harness run` does: the same call again finishes what is missing, and
            a model that changed is refused. Left out, results vanish with the object that is returned.
        device: "cpu", "cuda", ...; left out, a GPU where there is one.
        callback: is told how far the run is; left out, nothing is printed.
        retry_errors: compute images of `out` anew that ended in errors.
        engine, workers, devices, address, gpu_share, timeout: where images are attacked, see `harness.run`; left out,
            in this process. Models and attacks that are sent to another one must be such as can be pickled.

    Returns:
        `Results`. Images on which an attack or the model failed are errors there, neither robust nor misclassified.

    Raises:
        UserError: the call asks for something that there is not, the model's answers are no logits of the data's
            classes, or `out` holds the results of something else.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> results = harness.evaluate(network, "pgd", data="digits", size=8, eps="1/255", name="linear")
        >>> results.summary[["defense", "attack", "threat", "n"]].values.tolist()
        [['linear', 'pgd', 'Linf 1/255', 8]]
        >>> set(results.frame["verdict"]) <= {"robust", "fooled"}
        True

    Source:
        The protocol: Chen et al., 2023 (arXiv:2305.15241), Sec. 4; verdicts by votes that no attack has seen are ours.
    """
    place = calling_line()
    given = data_of(data, split, size, num_classes, place)
    defenses = defenses_of(model, name, ModelFacts(mean, std, stochastic), place)
    budget = Budget(norm, _quantity(eps, place), given, place)
    protocol: dict[str, Any] = {"votes": votes, "seed": seed, "batch_size": batch_size, "shard": shard, "gates": gates}
    owner = TemporaryDirectory(prefix="harness-") if out is None else None
    root = Path(owner.name) if owner else Path(str(out)).expanduser()
    plan = plan_of(defenses, attacks, given, budget, protocol, root)
    given.keep(root, place)
    options = {"workers": workers, "devices": devices, "address": address, "gpu_share": gpu_share, "timeout": timeout}
    chosen = choose(engine, device, **options)  # type: ignore[arg-type]
    where = device_of(devices[0] if devices else device)
    done = run(plan, root, where, callback, retry_errors=retry_errors, engine=chosen, timeout=timeout)
    return Results.read(root, computed=done.computed, owner=owner)


def _quantity(eps: str | float | None, place: Place) -> Quantity | None:
    try:
        return None if eps is None else Quantity(eps)
    except (TypeError, ValueError) as error:
        raise UserError(f"eps: {error}", remedy='Give a number, or a text such as "8/255"', where=place) from error
