"""What each intercepted operation does: the table from functions to their relevance rule.

Adding an operation is one entry in `OPERATIONS`. *Through* operations propagate relevance as
autograd propagates gradients; the others are written out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.interception import Interception, Operation
from attrreg.attribution.layers import Convolution, Elementwise, Linear

__all__ = ["OPERATIONS"]


def _convolution(dimensions: int) -> Operation:
    def convolve(
        run: Interception,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if run.is_live(weight):
            run.refuse(func, "has a weight that depends on the input")
        dilation = _each(dilation, dimensions)
        if isinstance(padding, str):
            spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if padding == "same" and any(span % 2 for span in spans):
                run.refuse(func, "pads one side more than the other")
            padding = [span // 2 if padding == "same" else 0 for span in spans]
        layer = Convolution(
            weight.detach(),
            None if bias is None else bias.detach(),
            _each(stride, dimensions),
            _each(padding, dimensions),
            dilation,
            groups,
        )
        x = run.settle(input)
        with torch.no_grad():
            return run.wait(x, layer.forward(x), layer)

    return convolve


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * dimensions if len(values) == 1 else values


def _batch_norm(
    run: Interception,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Fold into the convolution that made the input, or scale per channel where none did."""
    if training or running_mean is None or running_var is None:
        run.refuse(func, "uses the statistics of the batch, so that no sample has a map of its own")
    with torch.no_grad():
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -running_mean * scale
        shift = shift if bias is None else shift + bias
        waiting = run.waiting(input)
        x, layer = waiting if waiting else (run.settle(input), None)
        z = F.batch_norm(
            input.detach() if layer else x, running_mean, running_var, weight, bias, eps=eps
        )
        if layer is None:
            return run.affine(x, z, Elementwise(scale, shift), run.rule.linear)
        folded = Convolution(
            layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)),
            shift if layer.bias is None else layer.bias * scale + shift,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
    return run.affine(x, z, folded, run.rule.convolution)


def _linear(
    run: Interception, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if run.is_live(weight):
        run.refuse(func, "has a weight that depends on the input")
    layer = Linear(weight.detach(), None if bias is None else bias.detach())
    x = run.settle(input)
    with torch.no_grad():
        z = layer.forward(x)
    return run.affine(x, z, layer, run.rule.linear)


def _relu(run: Interception, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    y = run.live(F.relu(run.settle(input)), nonnegative=True)
    return run.replace(func, input, y) if inplace else y


def _relu_in_place(run: Interception, func: Any, input: Tensor) -> Tensor:
    return _relu(run, func, input, inplace=True)


def _add(run: Interception, func: Any, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    if not (run.is_live(input) and run.is_live(other)):
        run.refuse(func, "adds something that does not depend on the input")
    left, right = run.settle(input), run.settle(other)
    nonnegative = alpha >= 0 and run.is_nonnegative(left) and run.is_nonnegative(right)
    return run.live(torch.add(left, right, alpha=alpha), nonnegative)


def _add_in_place(run: Interception, func: Any, input: Any, other: Any, *, alpha: float = 1) -> Any:
    return run.replace(func, input, _add(run, func, input, other, alpha=alpha))


def _scale(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    """Multiply by a factor that does not depend on the input."""
    if run.is_live(input) and run.is_live(other):
        run.refuse(
            func, "multiplies two tensors that both depend on the input (which is the gate?)"
        )
    factors = [
        run.settle(value) if run.is_live(value) else _constant(value) for value in (input, other)
    ]
    return run.live(func(*factors))


def _divide(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    if run.is_live(other):
        run.refuse(func, "divides by a tensor that depends on the input")
    return run.live(func(run.settle(input), _constant(other)))


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _dropout(
    run: Interception, func: Any, input: Tensor, p: float = 0.5, training: bool = True, **_: Any
) -> Tensor:
    if training:
        run.refuse(func, "is random")
    return input


def _pad(
    run: Interception, func: Any, input: Tensor, pad: Any, mode: str = "constant", value: Any = None
) -> Tensor:
    if mode != "constant" or value:
        run.refuse(func, "pads with something other than zero")
    x = run.settle(input)
    return run.live(F.pad(x, pad), run.is_nonnegative(x))


def _through(keeps_sign: bool = True, views: bool = False) -> Operation:
    """Make an operation that propagates relevance as autograd propagates gradients."""

    def operate(run: Interception, func: Any, input: Any, *args: Any, **kwargs: Any) -> Tensor:
        several = isinstance(input, list | tuple)
        inputs = [run.settle(value) for value in (input if several else (input,))]
        nonnegative = keeps_sign and all(run.is_nonnegative(value) for value in inputs)
        y = run.live(func(inputs if several else inputs[0], *args, **kwargs), nonnegative)
        if views:
            run.note_view(inputs[0], y)
        return y

    return operate


def _table() -> dict[Any, Operation]:
    pools = ["avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "max_pool2d"]
    views = ["flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "expand"]
    entries: list[tuple[Operation, list[Any]]] = [
        (_convolution(1), [F.conv1d]),
        (_convolution(2), [F.conv2d]),
        (_batch_norm, [F.batch_norm]),
        (_linear, [F.linear]),
        (_relu, [F.relu]),
        (_relu, [torch.relu, Tensor.relu]),
        (_relu_in_place, [torch.relu_, Tensor.relu_]),
        (_add, [torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__]),
        (_add_in_place, [Tensor.add_, Tensor.__iadd__]),
        (_scale, [torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__]),
        (_divide, [torch.div, Tensor.div, Tensor.__truediv__]),
        (_dropout, [F.dropout, F.dropout2d]),
        (_pad, [F.pad]),
        (_through(), [*_named(pools), torch.cat, F.max_pool2d]),
        (_through(), [Tensor.contiguous, Tensor.clone, torch.mean, Tensor.mean]),
        (_through(), [torch.sum, Tensor.sum]),
        (_through(views=True), [*_named(views), Tensor.__getitem__]),
    ]
    return {func: operation for operation, functions in entries for func in functions}


def _named(names: list[str]) -> list[Callable[..., Any]]:
    """Return every public function of that name: torch has up to three for one operation."""
    return [
        getattr(place, name)
        for name in names
        for place in (torch, F, Tensor)
        if hasattr(place, name)
    ]


OPERATIONS: dict[Any, Operation] = _table()
