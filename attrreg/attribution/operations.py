"""What each intercepted operation does: the table from functions to their relevance rule.

Adding an operation is one entry in `OPERATIONS`. *Through* operations propagate relevance as
autograd propagates gradients; the others are written out.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.interception import Interception, Operation, tensors_in
from attrreg.attribution.layers import Convolution, Elementwise, Linear

__all__ = ["OPERATIONS", "QUERIES"]


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
        if run.is_live(weight) or run.is_live(bias):
            run.refuse(func, "has a weight that depends on the input")
        if input.ndim != dimensions + 2:
            run.refuse(func, "reads a single sample without a batch axis")
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
            z = layer.forward(x)
        return run.affine(func, x, z, layer, run.rule.convolution, alone=False)

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
    if not run.is_live(input) or any(map(run.is_live, (running_mean, running_var, weight, bias))):
        run.refuse(func, "has parameters that depend on the input")
    x = run.settle(input)
    facts = run.facts(x)
    with torch.no_grad():
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -running_mean * scale
        shift = shift if bias is None else shift + bias
        z = F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    if facts is None or facts.convolution is None:
        return run.affine(func, x, z, Elementwise(scale, shift), run.rule.linear)
    read, made = facts.convolution
    folded = replace(
        made,
        weight=made.weight * scale.view(-1, *[1] * (made.weight.ndim - 1)),
        bias=shift if made.bias is None else made.bias * scale + shift,
    )
    return run.affine(func, read, z, folded, run.rule.convolution)


def _linear(
    run: Interception, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if run.is_live(weight) or run.is_live(bias):
        run.refuse(func, "has a weight that depends on the input")
    layer = Linear(weight.detach(), None if bias is None else bias.detach())
    x = run.settle(input)
    with torch.no_grad():
        z = layer.forward(x)
    return run.affine(func, x, z, layer, run.rule.linear)


def _relu(run: Interception, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    x = run.settle(input)
    y = run.admit(func, F.relu(x), [x], nonnegative=True)
    return run.change(func, input, y) if inplace else y


def _relu_in_place(run: Interception, func: Any, input: Tensor) -> Tensor:
    return _relu(run, func, input, inplace=True)


def _add(run: Interception, func: Any, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    if not (run.is_live(input) and run.is_live(other)):
        run.refuse(func, "adds something that does not depend on the input")
    left, right = run.settle(input), run.settle(other)
    nonnegative = alpha >= 0 and run.is_nonnegative(left) and run.is_nonnegative(right)
    return run.admit(func, torch.add(left, right, alpha=alpha), [left, right], nonnegative)


def _add_in_place(run: Interception, func: Any, input: Any, other: Any, *, alpha: float = 1) -> Any:
    y = _add(run, func, input, other, alpha=alpha)
    if y.shape != input.shape or y.dtype != input.dtype:
        run.refuse(func, "changes in place a tensor of another shape or type")
    return run.change(func, input, y)


def _scale(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    """Multiply by a factor that does not depend on the input."""
    if run.is_live(input) and run.is_live(other):
        run.refuse(
            func, "multiplies two tensors that both depend on the input (which is the gate?)"
        )
    live = run.settle(input if run.is_live(input) else other)
    factor = other if run.is_live(input) else input
    return run.admit(func, torch.mul(live, _constant(factor)), [live])


def _divide(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    if run.is_live(other):
        run.refuse(func, "divides by a tensor that depends on the input")
    x = run.settle(input)
    return run.admit(func, torch.div(x, _constant(other)), [x])


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _dropout(
    run: Interception, func: Any, input: Tensor, p: float = 0.5, training: bool = True, **_: Any
) -> Tensor:
    if training and p > 0:
        run.refuse(func, "is random")
    return input


def _pad(
    run: Interception, func: Any, input: Tensor, pad: Any, mode: str = "constant", value: Any = None
) -> Tensor:
    if mode != "constant" or value:
        run.refuse(func, "pads with something other than zero")
    x = run.settle(input)
    return run.admit(func, F.pad(x, pad), [x], run.is_nonnegative(x))


def _through(run: Interception, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Propagate relevance as autograd propagates gradients; what is not negative stays so."""
    if kwargs.get("return_indices"):
        run.refuse(func, "returns indices")

    def settled(value: Any) -> Any:
        if isinstance(value, list | tuple) and any(map(run.is_live, tensors_in(value))):
            return type(value)(map(settled, value))
        return run.settle(value) if run.is_live(value) else _constant(value)

    args = tuple(map(settled, args))
    kwargs = {name: settled(value) for name, value in kwargs.items()}
    inputs = [each for each in tensors_in((args, kwargs)) if run.is_live(each)]
    y = func(*args, **kwargs)
    if any(y is x for x in inputs):
        return y
    return run.admit(func, y, inputs, all(map(run.is_nonnegative, inputs)))


def _table() -> dict[Any, Operation]:
    through = [
        *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "max_pool2d"),
        *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "expand"),
        *("cat", "clone", "contiguous", "mean", "sum"),
    ]
    entries: list[tuple[Operation, list[Any]]] = [
        (_convolution(1), [F.conv1d]),
        (_convolution(2), [F.conv2d]),
        (_batch_norm, [F.batch_norm]),
        (_linear, [F.linear]),
        (_relu, [F.relu, torch.relu, Tensor.relu]),
        (_relu_in_place, [torch.relu_, Tensor.relu_]),
        (_add, [torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__]),
        (_add_in_place, [Tensor.add_, Tensor.__iadd__]),
        (_scale, [torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__]),
        (_divide, [torch.div, Tensor.div, Tensor.__truediv__]),
        (_dropout, [F.dropout, F.dropout2d]),
        (_pad, [F.pad]),
        (_through, [*_everywhere(through), Tensor.__getitem__]),
    ]
    return {func: operation for operation, functions in entries for func in functions}


def _everywhere(names: list[str]) -> list[Callable[..., Any]]:
    """Return every public function of that name: torch has up to three for one operation."""
    return [
        getattr(place, name)
        for name in names
        for place in (torch, F, Tensor)
        if hasattr(place, name)
    ]


OPERATIONS: dict[Any, Operation] = _table()

# What says something about a tensor without looking at its values.
QUERIES: frozenset[Any] = frozenset(
    [
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.__len__),
        *(Tensor.is_contiguous, Tensor.is_floating_point, torch.is_floating_point),
        *(Tensor.is_complex, torch.is_complex, torch.numel, Tensor.get_device, Tensor.__hash__),
        *(Tensor.ndimension, Tensor.storage_offset, Tensor.is_inference),
        *(
            getattr(Tensor, name).__get__
            for name in (
                *("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_leaf"),
                *("is_cuda", "is_cpu", "is_mps", "is_sparse", "is_quantized", "is_mkldnn"),
                *("is_meta", "is_nested", "itemsize", "nbytes", "_version"),
            )
        ),
    ]
)
