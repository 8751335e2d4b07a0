"""Operations made of others, written out so that each of their steps gets its own rule.

Attention is two products around a softmax; recurrent layers are linear layers, gates and sums, step
by step. Gates are held constant: of a cell c' = f·c + i·g relevance flows into c and g.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.interception import Interception, Operation

__all__ = ["UNROLLED"]


def _attention(
    run: Interception,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ · scale + mask) v."""
    if dropout_p > 0:
        run.refuse(func, "is random")
    if enable_gqa:
        run.refuse(func, "has fewer heads for keys than for queries")
    return _attend(run, func, query, key, value, attn_mask, is_causal, scale)[0]


def _attend(
    run: Interception,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the result and the weights."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scaled = run.call(torch.mul, query, factor)
    scores = run.call(torch.matmul, scaled, run.call(torch.transpose, key, -2, -1))
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = _masked(run, func, scores, causal)
    if mask is not None and mask.dtype == torch.bool:
        scores = _masked(run, func, scores, mask)
    elif mask is not None:
        scores = run.call(torch.add, scores, mask)
    weights = run.call(torch.softmax, scores, -1)
    return run.call(torch.matmul, weights, value), weights


def _masked(run: Interception, func: Any, scores: Tensor, allowed: Tensor) -> Tensor:
    apply = partial(torch.masked_fill, mask=~allowed, value=-math.inf)
    return run.through(func, apply, [scores]) if run.is_live(scores) else apply(scores)


def _multi_head_attention(
    run: Interception,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Project, attend per head, project back; tensors are (length, n, features)."""
    if query.ndim != 3:
        run.refuse(func, "reads a single sequence without a batch axis")
    if bias_k is not None or bias_v is not None or static_k is not None or static_v is not None:
        run.refuse(func, "has additional keys or values")
    if add_zero_attn or (training and dropout_p > 0):
        run.refuse(func, "has a zero key, or is random")
    projections = [q_proj_weight, k_proj_weight, v_proj_weight]
    if not use_separate_proj_weight and in_proj_weight is not None:
        projections = list(in_proj_weight.chunk(3))
    biases: Sequence[Tensor | None] = [None] * 3
    if in_proj_bias is not None:
        biases = in_proj_bias.chunk(3)

    def heads(x: Tensor) -> Tensor:
        """Turn (length, n, features) into (n, heads, length, features per head)."""
        split = run.call(torch.unflatten, x, -1, (num_heads, -1))
        return run.call(torch.permute, split, (1, 2, 0, 3))

    q, k, v = (
        heads(run.call(F.linear, x, weight, bias))
        for x, weight, bias in zip((query, key, value), projections, biases, strict=True)
    )
    mask = _merged(attn_mask, key_padding_mask, q, k, num_heads)
    attended, weights = _attend(run, func, q, k, v, mask, False, None)
    joined = run.call(torch.flatten, run.call(torch.permute, attended, (2, 0, 1, 3)), 2)
    result = run.call(F.linear, joined, out_proj_weight, out_proj_bias)
    if not need_weights:
        return result, None
    return result, run.call(torch.mean, weights, 1) if average_attn_weights else weights


def _merged(
    mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor, heads: int
) -> Tensor | None:
    """Return one additive mask, broadcastable to (n, heads, queries, keys), or None."""
    merged = None
    for each, shape in ((mask, None), (padding, (len(q), 1, 1, k.shape[2]))):
        if each is None:
            continue
        added = each
        if each.dtype == torch.bool:  # here True is what may not be looked at
            added = torch.zeros(each.shape, dtype=q.dtype, device=q.device)
            added = added.masked_fill(each, -math.inf)
        if shape is not None:
            added = added.view(shape)
        elif added.ndim == 3:
            added = added.view(-1, heads, *added.shape[1:])
        merged = added if merged is None else merged + added
    return merged


# Recurrent layers: `advance` makes one step from the projected input and the state.
Advance = Callable[..., tuple[Tensor, ...]]


def _recurrent(advance: Advance, states: int) -> Operation:
    """Return the operation of a recurrent layer whose state is `states` tensors (n, hidden)."""

    def unroll(
        run: Interception,
        func: Any,
        input: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool = False,
    ) -> tuple[Tensor, ...]:
        initial = list(hx) if isinstance(hx, list | tuple) else [hx]
        if (
            isinstance(params, bool)
            or len(initial) != states
            or isinstance(hx, Tensor) != (states == 1)
        ):
            run.refuse(func, "reads a packed sequence; give it a padded batch")
        if train and dropout > 0:
            run.refuse(func, "is random")
        directions = 2 if bidirectional else 1
        per_layer = 4 if has_biases else 2
        if len(params) != num_layers * directions * per_layer:
            run.refuse(func, "projects its state")
        time = 1 if batch_first else 0
        last: list[list[Tensor]] = [[] for _ in range(states)]
        sequence = input
        for layer in range(num_layers):
            outputs = []
            for direction in range(directions):
                place = layer * directions + direction
                weights = [*params[place * per_layer : (place + 1) * per_layer], None, None][:4]
                state = tuple(run.call(torch.select, each, 0, place) for each in initial)
                steps = _steps(run, func, advance, sequence, state, weights, time, direction == 1)
                outputs.append(run.call(torch.stack, [each[0] for each in steps], time))
                end = steps[0] if direction == 1 else steps[-1]
                for each, value in zip(last, end, strict=True):
                    each.append(value)
            sequence = outputs[0] if directions == 1 else run.call(torch.cat, outputs, -1)
        return sequence, *(run.call(torch.stack, each, 0) for each in last)

    return unroll


def _steps(
    run: Interception,
    func: Any,
    advance: Advance,
    sequence: Tensor,
    state: tuple[Tensor, ...],
    weights: Sequence[Tensor | None],
    time: int,
    backwards: bool,
) -> list[tuple[Tensor, ...]]:
    """Return the state after each step, in the order of the sequence."""
    of_input, of_state, input_bias, state_bias = weights
    projected = run.call(F.linear, sequence, of_input, input_bias)
    parts = run.call(torch.unbind, projected, time)
    states = []
    for part in reversed(parts) if backwards else parts:
        recurrent = run.call(F.linear, state[0], of_state, state_bias)
        state = advance(run, func, part, recurrent, *state)
        states.append(state)
    return states[::-1] if backwards else states


def _cell(advance: Advance) -> Operation:
    def step(
        run: Interception,
        func: Any,
        input: Tensor,
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        state = tuple(hx) if isinstance(hx, list | tuple) else (hx,)
        projected = run.call(F.linear, input, w_ih, b_ih)
        recurrent = run.call(F.linear, state[0], w_hh, b_hh)
        after = advance(run, func, projected, recurrent, *state)
        return after if isinstance(hx, list | tuple) else after[0]

    return step


def _lstm(
    run: Interception, func: Any, projected: Tensor, recurrent: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Source: Hochreiter and Schmidhuber, Neural Computation 1997, with forget gates."""
    gates = run.call(torch.add, projected, recurrent)
    enter, forget, candidate, leave = run.call(torch.chunk, gates, 4, -1)
    enter, forget, leave = (run.call(torch.sigmoid, each) for each in (enter, forget, leave))
    new = run.call(torch.mul, enter, run.call(torch.tanh, candidate))
    cell = _add_gated(run, func, new, forget, cell)
    return run.call(torch.mul, leave, run.call(torch.tanh, cell)), cell


def _gru(
    run: Interception, func: Any, projected: Tensor, recurrent: Tensor, hidden: Tensor
) -> tuple[Tensor]:
    """Source: Cho et al., EMNLP 2014, in the form of torch.nn.GRU."""
    reset, update, candidate = run.call(torch.chunk, projected, 3, -1)
    of_reset, of_update, of_candidate = run.call(torch.chunk, recurrent, 3, -1)
    reset = run.call(torch.sigmoid, run.call(torch.add, reset, of_reset))
    update = run.call(torch.sigmoid, run.call(torch.add, update, of_update))
    new = run.call(torch.tanh, _add_gated(run, func, candidate, reset, of_candidate))
    fresh = run.call(torch.mul, run.call(torch.rsub, update, 1), new)
    return (_add_gated(run, func, fresh, update, hidden),)


def _plain(
    activation: Callable[..., Tensor],
) -> Advance:
    def advance(
        run: Interception, func: Any, projected: Tensor, recurrent: Tensor, hidden: Tensor
    ) -> tuple[Tensor]:
        return (run.call(activation, run.call(torch.add, projected, recurrent)),)

    return advance


def _add_gated(run: Interception, func: Any, onto: Tensor, gate: Tensor, value: Tensor) -> Tensor:
    """Return onto + gate · value; where value is a constant, so is the product."""
    if run.is_live(value) or not run.is_live(gate):
        return run.call(torch.add, onto, run.call(torch.mul, gate, value))
    summand = run.constant(run.hold(gate) * value, onto)
    return run.through(func, lambda x: x + summand, [onto])


UNROLLED: dict[Any, Operation] = {
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    torch.lstm: _recurrent(_lstm, 2),
    torch.gru: _recurrent(_gru, 1),
    torch.rnn_tanh: _recurrent(_plain(torch.tanh), 1),
    torch.rnn_relu: _recurrent(_plain(torch.relu), 1),
    torch.lstm_cell: _cell(_lstm),
    torch.gru_cell: _cell(_gru),
    torch.rnn_tanh_cell: _cell(_plain(torch.tanh)),
    torch.rnn_relu_cell: _cell(_plain(torch.relu)),
}
