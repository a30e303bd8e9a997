"""A query that is answered from the journal, or by the defense and then recorded.

The recorded answer of a query are its logits, and what the defense has measured on the way. That of a backward pass is
the gradient in the images. An answer from the journal is differentiated as that of the defense is: the gradient is the
recorded one, and where none was recorded, the defense is asked after all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from harness.defense import Defense
from harness.gradients import leads_to
from harness.journal.entry_file import Turn
from harness.journal.journal import Journal
from harness.journal.question import Question
from harness.journal.tensors import Unsuitable, decode, digest_of, encode
from harness.process.pull_back import pull_back
from harness.search import Narrowing

Ask = Callable[[Tensor, Narrowing | None], Tensor]
"""Queries the defense about images, (M, C, H, W): (draws * M, K). It is given what may be left out."""


def answered(journal: Journal | None, question: Question, defense: Defense, images: Tensor, ask: Ask) -> Tensor:
    """The answer to a question, (draws * M, K).

    Args:
        journal: if there is none, the defense answers, and nothing is recorded.
        defense: which is asked.
        images: those of the question, as the answer is to be differentiated by them.
        ask: queries the defense.
    """
    narrowing = question.narrowing
    if journal is None:
        return ask(images, narrowing)
    turn = journal.next_query()
    if not journal.active(turn) or journal.watched(defense) or unpack_dual(images).tangent is not None:
        output = ask(images, narrowing)
        _count(journal, question, output)
        return output
    gradients = _Gradients(journal, turn)
    if found := _recalled(journal, turn, question):
        facts, output, measured = found
        output = output.to(images.device)
        if narrowing is not None and measured is not None:
            narrowing.measured = measured.to(images.device)
        if facts.get("depends"):
            output = _Recorded.apply(images, (output,), gradients, ask, narrowing)
        elif facts.get("differentiable"):
            output.requires_grad_()
    else:
        inner = _Observed.apply(images, gradients) if question.differentiable else images
        output = ask(inner, narrowing)
        _count(journal, question, output)
        facts = {"differentiable": output.requires_grad, "depends": leads_to(output, inner)}
        _keep(journal, turn, question.digest, facts, [output, None if narrowing is None else narrowing.measured])
    if output.requires_grad:
        output.register_hook(gradients.begin)
    return output


def _count(journal: Journal, question: Question, output: Tensor) -> None:
    """Takes in what a query costs to record, and a backward pass of it, if there can be one."""
    size = _bytes(question.images)
    written = _bytes(output) + (size if question.differentiable else 0)
    journal.spent(hashed=size, written=written, entries=1 + question.differentiable)


def _recalled(journal: Journal, turn: Turn, question: Question) -> tuple[dict[str, Any], Tensor, Tensor | None] | None:
    facts, (output, measured) = _content(journal.recall(turn, question.digest), 2)
    if output is None or output.dim() != 2 or len(output) != question.draws * len(question.images):
        return None
    return facts, output, measured


class _Gradients:
    """The backward passes of one query.

    Args:
        query: its turn.
    """

    def __init__(self, journal: Journal, query: Turn) -> None:
        self._journal, self._turn = journal, query
        self._by_output: Tensor | None = None

    def begin(self, by_output: Tensor) -> None:
        """A backward pass arrives at the output. by_output: the gradient there, (draws * M, K)."""
        self._turn = self._turn._replace(backward=self._turn.backward + 1)
        self._by_output = by_output

    def recall(self, images: Tensor) -> Tensor | None:
        """The recorded gradient by the images (M, C, H, W), if there is one."""
        if torch.is_grad_enabled():  # a recorded one could not be differentiated itself
            return None
        _, (gradient,) = _content(self._journal.recall(self._turn, self._question), 1)
        if gradient is None or gradient.shape != images.shape:
            return None
        return gradient.to(images.device)

    def keep(self, gradient: Tensor) -> None:
        """Records what a backward pass came to, (M, C, H, W)."""
        if torch.is_grad_enabled():
            self._journal.abandon()
        elif self._by_output is not None:
            _keep(self._journal, self._turn, self._question, {}, [gradient.contiguous()])

    def end(self) -> None:
        """The backward pass is over."""
        self._by_output = None

    def _question(self) -> bytes:
        return digest_of(["gradient"], [self._by_output])


class _Observed(torch.autograd.Function):
    """The identity. Its backward pass records the gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradients: _Gradients) -> Tensor:
        ctx.gradients = gradients
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.gradients.keep(gradient)
        ctx.gradients.end()
        return gradient, None


class _Recorded(torch.autograd.Function):
    """A recorded output as a function of the images."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, output: tuple[Tensor], gradients: _Gradients, ask: Ask, narrowing: Narrowing | None
    ) -> Tensor:
        ctx.save_for_backward(images)
        ctx.gradients, ctx.ask, ctx.narrowing = gradients, ask, narrowing
        return output[0]  # passed in a tuple, since an argument that is returned would become a view

    @staticmethod
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        (images,) = ctx.saved_tensors
        gradient = ctx.gradients.recall(images)
        if gradient is None:
            gradient = _differentiated(ctx.ask, images, ctx.narrowing, by_output)
            ctx.gradients.keep(gradient)
        ctx.gradients.end()
        return gradient, None, None, None, None


def _differentiated(ask: Ask, images: Tensor, narrowing: Narrowing | None, by_output: Tensor) -> Tensor:
    """The gradient by the images that the defense itself gives, (M, C, H, W); see the arguments of `torch.autograd`."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        images = images.view_as(images) if again else images.detach().requires_grad_()
        output = ask(images, None if narrowing is None else replace(narrowing, measured=None))
        (gradient,) = pull_back([output], [images], [by_output], create_graph=again)
    return gradient


def _keep(
    journal: Journal, turn: Turn, question: Callable[[], bytes], facts: dict[str, Any], tensors: list[Tensor | None]
) -> None:
    with suppress(Unsuitable):  # then the defense will answer once more
        journal.keep(turn, question, lambda: encode(facts, tensors))


def _content(data: bytes | None, count: int) -> tuple[dict[str, Any], list[Tensor | None]]:
    """The facts of a record and its tensors, so many; None in place of all tensors where there is no such record."""
    try:
        facts, tensors = ({}, []) if data is None else decode(data)
    except ValueError:
        tensors = []
    return (facts, tensors) if len(tensors) == count else ({}, [None] * count)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
