"""Gradients through a long chain of steps, such as a solver's, in the memory of one step or a given amount of it.

    s_{i+1} = f_i(s_i),    i = 0..n-1;        a_i = (ds_n / ds_i)^T g for an incoming gradient g

Autograd would keep the graphs of all n steps. Here the forward pass keeps the graphs of the first steps, as many as the
allowed memory holds; each saves the backward pass an evaluation of the network, a third of its time. Of the other steps

    exact     keeps the states, which are small beside a network's graph, and in the backward pass rebuilds one step
              at a time:
              a_i = (df_i/ds (s_i))^T a_{i+1}
    adjoint   keeps no graph, only the end, and steps back from it:
              s_i ~ u_i(s_{i+1}),  a_i = 2 a_{i+1} - (du_i/ds (s_{i+1}))^T a_{i+1}

The second is Euler's method, run backwards, for the adjoint equation of a differential equation ds/dt = v (Chen et al.
2018; Li et al. 2020 for SDEs): with u_i(s) = s - h v(s) it gives a_i = a_{i+1} + h (dv/ds)^T a_{i+1}. It is approximate
for two reasons: the path back is not the path forward, and the derivative is taken at the wrong end of each step. Both
errors vanish only as h does. It takes as much time as the exact gradient.

A step is a pure function: it draws its noise again from seeds. It is differentiated in the state only, so that anything
else that needs a gradient must be part of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from defenses.diffusion.graph_memory import Keeper
from defenses.diffusion.once import refuse_second_derivative
from harness.process.pull_back import pull_back

State = tuple[Tensor, ...]
"""Floating-point tensors of any shapes, as many after a step as before."""

Step = Callable[..., State]
"""(i, *state) -> state, differentiable in the state and in nothing else; equal arguments give equal results."""


def stepwise(step: Step, count: int, state: State, *, allowed: float = 0) -> State:
    """s_n, with its exact gradient in s_0. A second derivative raises RuntimeError (`create_graph=True`).

    Args:
        step: f.
        count: n, at least 0.
        state: s_0.
        allowed: bytes of graphs that may be kept for the backward pass; the gradient does not depend on it.
    """
    if not _differentiable(state):
        return _run(step, count, state)
    state, kept = _with_graphs(step, count, state, Keeper(allowed))
    return _Chain.apply(step, kept, count, *state) if kept < count or not allowed else state


def adjoint(step: Step, undo: Step, count: int, state: State) -> State:
    """s_n as in `stepwise`, with the approximate gradient, whose memory does not grow with n.

    Args:
        step: f.
        undo: u, an approximate inverse: undo(i, *s_{i+1}) ~ s_i.
        count: n, at least 0.
        state: s_0.
    """
    return _Adjoint.apply(step, undo, count, *state) if _differentiable(state) else _run(step, count, state)


def _differentiable(state: State) -> bool:
    return torch.is_grad_enabled() and any(part.requires_grad for part in state)


def _run(step: Step, count: int, state: State) -> State:
    with torch.no_grad():
        for i in range(count):
            state = step(i, *state)
    return state


def _with_graphs(step: Step, count: int, state: State, keeper: Keeper) -> tuple[State, int]:
    """The state after the steps whose graphs may be kept, with these graphs, and the number of these steps."""
    for i in range(count):
        if not keeper.has_room:
            return state, i
        with keeper.building():
            after = step(i, *state)
        if keeper.overdrawn:
            return state, i
        state = after
    return state, count


def _differentiate(step: Step, i: int, state: State, gradients: State) -> tuple[State, State]:
    """step(i, *state), and the gradient of <gradients, step(i, *state)> in the state, from one graph."""
    with torch.enable_grad():
        own = tuple(part.detach().requires_grad_() for part in state)
        result = step(i, *own)
        pairs = [(part, g) for part, g in zip(result, gradients, strict=True) if part.requires_grad]
        parts, weights = zip(*pairs, strict=True) if pairs else ((), ())
        pulled = pull_back(parts, own, weights, allow_unused=True, materialize_grads=True)
    return tuple(part.detach() for part in result), pulled


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, first: int, count: int, *state: Tensor) -> State:
        states = [state]
        for i in range(first, count):
            states.append(step(i, *states[-1]))
        ctx.step, ctx.first, ctx.width = step, first, len(state)
        ctx.save_for_backward(*(part for state in states[:-1] for part in state))
        return states[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        refuse_second_derivative("a chain of steps")
        saved = ctx.saved_tensors
        for i in reversed(range(len(saved) // ctx.width)):
            state = saved[i * ctx.width : (i + 1) * ctx.width]
            _, gradients = _differentiate(ctx.step, ctx.first + i, state, gradients)
        return None, None, None, *gradients


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, undo: Step, count: int, *state: Tensor) -> State:
        end = _run(step, count, state)
        ctx.undo, ctx.count = undo, count
        ctx.save_for_backward(*end)
        return end

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        refuse_second_derivative("a chain of steps")
        state = ctx.saved_tensors
        for i in reversed(range(ctx.count)):
            state, pulled = _differentiate(ctx.undo, i, state, gradients)
            gradients = tuple(2 * g - p for g, p in zip(gradients, pulled, strict=True))
        return None, None, None, *gradients
