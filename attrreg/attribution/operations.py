"""What each intercepted operation does: the table from functions to their relevance rule.

Adding an operation is one entry in a table. Here are affine layers and what picks, moves or
averages values; the others are in the modules that `OPERATIONS` is put together from.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.activations import ACTIVATIONS
from attrreg.attribution.calls import everywhere, in_place, replaced, settled, table
from attrreg.attribution.interception import Interception, Operation, tensors_in
from attrreg.attribution.layers import Convolution, Elementwise, Linear
from attrreg.attribution.normalisation import NORMALISATION
from attrreg.attribution.products import SUMS_AND_PRODUCTS
from attrreg.attribution.unrolled import UNROLLED

__all__ = ["OPERATIONS", "QUERIES"]

REARRANGING = [
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    *("adaptive_avg_pool3d", "flatten", "unflatten", "reshape", "view", "permute", "transpose"),
    *("swapaxes", "movedim", "squeeze", "unsqueeze", "t", "expand", "repeat", "tile", "narrow"),
    *("repeat_interleave", "select", "index_select", "unbind", "chunk", "split", "roll"),
    *("flip", "cat", "concat", "stack", "clone", "contiguous", "mean", "sum", "unfold"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tensor_split", "gather"),
    *("float", "double", "half", "bfloat16", "fold", "swapdims", "split_with_sizes"),
]
ASIDE = [
    *("eq", "ne", "lt", "le", "gt", "ge", "equal", "isnan", "isinf", "isfinite", "argmax"),
    *("argmin", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones"),
    *("new_full", "new_empty", "new_tensor"),
]
COMPARISONS = [getattr(Tensor, f"__{name}__") for name in ("eq", "ne", "lt", "le", "gt", "ge")]
PROPERTIES = [Tensor.__getitem__, *(getattr(Tensor, name).__get__ for name in ("T", "mT"))]


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
        x = run.settle(input)
        if isinstance(padding, str):
            spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if padding == "same" and any(span % 2 for span in spans):  # more on the far side
                x = run.call(F.pad, x, [each for s in reversed(spans) for each in (0, s % 2)])
            padding = [span // 2 if padding == "same" else 0 for span in spans]
        layer = Convolution(
            run.hold(weight),
            run.hold(bias),
            _each(stride, dimensions),
            _each(padding, dimensions),
            dilation,
            groups,
        )
        return run.affine(func, x, layer, run.rule.convolution, foldable=True)

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
    weight, bias = run.hold(weight), run.hold(bias)
    facts = run.known(x)
    made_by = facts.convolution

    def value(values: Tensor) -> Tensor:
        return F.batch_norm(values, running_mean, running_var, weight, bias, eps=eps)

    if run.is_plain and made_by is None and facts.raw is None:
        return run.through(func, value, [x], signal=True)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    compute = partial(value, x)
    if made_by is None:
        return run.affine(func, x, Elementwise(scale, shift), run.rule.linear, compute)
    layer = made_by.layer
    whole_shift = shift if layer.bias is None else layer.bias * scale + shift
    folded = replace(
        layer,
        weight=(layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))).to(x.dtype),
        bias=whole_shift.to(x.dtype),
    )
    output = run.affine(func, made_by.x, folded, run.rule.convolution, compute)
    made_by.value.clear()
    return output


def _linear(
    run: Interception, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if run.is_live(weight) or run.is_live(bias):
        run.refuse(func, "has a weight that depends on the input")
    if weight.ndim != 2:
        run.refuse(func, "has a weight that is no matrix")
    layer = Linear(run.hold(weight), run.hold(bias))
    return run.affine(func, run.settle(input), layer, run.rule.linear)


def _interpolate(
    run: Interception,
    func: Any,
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    **kwargs: Any,
) -> Tensor:
    apply = partial(F.interpolate, size=size, scale_factor=scale_factor, mode=mode, **kwargs)
    averages, x = mode != "bicubic", run.settle(input)
    return run.through(func, apply, [x], averages and run.is_nonnegative(x), rearranges=averages)


def _dropout(
    run: Interception, func: Any, input: Tensor, p: float = 0.5, training: bool = True, **_: Any
) -> Tensor:
    if training and p > 0:
        run.refuse(func, "is random")
    return input


def _pad(
    run: Interception, func: Any, input: Tensor, pad: Any, mode: str = "constant", value: Any = None
) -> Tensor:
    x = run.settle(input)
    if mode == "constant" and value:
        padded = torch.full_like(x[:1], 0)
        frame = run.constant(F.pad(padded, pad, value=value), x)
        return run.through(func, lambda values: F.pad(values, pad) + frame, [x])
    apply = partial(F.pad, pad=pad, mode=mode)
    return run.through(func, apply, [x], run.is_nonnegative(x), rearranges=True)


def _max_pool(dimensions: int) -> Operation:
    def pool(
        run: Interception,
        func: Any,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor:
        if return_indices:
            run.refuse(func, "returns indices")
        function = getattr(F, f"max_pool{dimensions}d")
        apply = partial(
            function,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
        )
        return _winners(run, func, run.settle(input), apply, dimensions)

    return pool


def _adaptive_max_pool(dimensions: int) -> Operation:
    def pool(
        run: Interception, func: Any, input: Tensor, output_size: Any, return_indices: bool = False
    ) -> Tensor:
        if return_indices:
            run.refuse(func, "returns indices")
        apply = partial(getattr(F, f"adaptive_max_pool{dimensions}d"), output_size=output_size)
        return _winners(run, func, run.settle(input), apply, dimensions)

    return pool


def _winners(
    run: Interception, func: Any, x: Tensor, apply: Callable[..., Any], dimensions: int
) -> Tensor:
    """Give all relevance to the largest of a window; of equals, to the first."""

    def linear(shadow: Tensor) -> Tensor:
        places = apply(x, return_indices=True)[1]
        picked = shadow.flatten(-dimensions).gather(-1, places.flatten(-dimensions))
        return picked.view(places.shape)

    return run.through(func, apply, [x], run.is_nonnegative(x), linear=linear)


def _maximum(
    run: Interception, func: Any, input: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Any:
    """Take the largest along an axis (PointNet); of equals, the one that torch picks."""
    if type(dim) is not int:
        run.refuse(func, "is not taken along an axis")
    x = run.settle(input)

    def linear(shadow: Tensor) -> Tensor:
        picked = shadow.gather(dim, x.max(dim, keepdim=True).indices)
        return picked if keepdim else picked.squeeze(dim)

    apply = partial(torch.max, dim=dim, keepdim=keepdim)
    return run.through(func, apply, [x], run.is_nonnegative(x), linear=linear)


def _amax(
    run: Interception, func: Any, input: Tensor, dim: Any = (), keepdim: bool = False
) -> Tensor:
    """Take the largest along axes; equals share."""
    x = run.settle(input)
    axes = (dim,) if isinstance(dim, int) else tuple(dim) or tuple(range(x.ndim))

    def linear(shadow: Tensor) -> Tensor:
        wins = (x == x.amax(axes, keepdim=True)).to(x.dtype)
        share = wins / wins.sum(axes, keepdim=True)
        return (shadow * share).sum(axes, keepdim=keepdim)

    apply = partial(torch.amax, dim=axes, keepdim=keepdim)
    return run.through(func, apply, [x], run.is_nonnegative(x), linear=linear)


def _where(run: Interception, func: Any, condition: Tensor, input: Any, other: Any) -> Tensor:
    if run.is_live(condition):
        run.refuse(func, "has a condition that depends on the input")
    values = [run.settle(input), run.settle(other)]
    inputs = [each for each in values if run.is_live(each)]
    filled = [each if run.is_live(each) else run.constant(each, inputs[0]) for each in values]

    def apply(*live: Tensor) -> Tensor:
        chosen, otherwise = replaced(filled, inputs, live)
        return torch.where(condition, chosen, otherwise)

    return run.through(func, apply, inputs)


def _chosen(run: Interception, func: Any, input: Any, condition: Tensor, other: Any) -> Tensor:
    return _where(run, func, condition, input, other)


def _masked_fill(run: Interception, func: Any, input: Tensor, mask: Tensor, value: Any) -> Tensor:
    return run.call(torch.where, mask, value, input)


def _as(function: Callable[..., Tensor]) -> Operation:
    """Return an operation that takes nothing but its shape from its second tensor."""

    def shape(run: Interception, func: Any, input: Tensor, other: Tensor) -> Tensor:
        if not run.is_live(input):
            return function(input, other.shape)
        return run.call(function, input, other.shape)

    return shape


def _to(run: Interception, func: Any, input: Any, *args: Any, **kwargs: Any) -> Tensor:
    if run.is_live(input):
        return _carry(run, func, input, *args, **kwargs)
    plain = [each.detach() if isinstance(each, Tensor) else each for each in args]
    return input.to(*plain, **kwargs)


def _type_as(run: Interception, func: Any, input: Tensor, other: Tensor) -> Tensor:
    return run.call(Tensor.to, input, other.dtype) if run.is_live(input) else input.type_as(other)


def _carry(run: Interception, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Propagate relevance as autograd propagates gradients.

    It is linear with weights that are not negative: what is not negative stays so.
    """
    values, inputs = settled(run, func, (args, kwargs))

    def apply(*live: Tensor) -> Any:
        arguments, options = replaced(values, inputs, live)
        return func(*arguments, **options)

    # what is joined with constants is no mere rearrangement, and has their signs
    floating = [each for each in tensors_in(values) if each.is_floating_point()]
    only = len(floating) == sum(any(each is x for x in inputs) for each in floating)
    nonnegative = only and all(map(run.is_nonnegative, inputs))
    return run.through(func, apply, inputs, nonnegative, rearranges=only)


def _aside(run: Interception, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute what no relevance can flow through: a comparison, a place, a tensor of some shape."""

    def detached(value: Any) -> Any:
        return run.settle(value).detach() if isinstance(value, Tensor) else value

    plain = {name: detached(value) for name, value in kwargs.items()}
    return func(*map(detached, args), **plain)


OPERATIONS: dict[Any, Operation] = {
    **ACTIVATIONS,
    **SUMS_AND_PRODUCTS,
    **NORMALISATION,
    **UNROLLED,
    **table(
        [
            (_convolution(1), [F.conv1d]),
            (_convolution(2), [F.conv2d]),
            (_convolution(3), [F.conv3d]),
            (_batch_norm, [F.batch_norm]),
            (_linear, [F.linear]),
            (_dropout, [F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout]),
            (_pad, [F.pad]),
            (_max_pool(1), [F.max_pool1d, torch.max_pool1d]),
            (_max_pool(2), [F.max_pool2d, torch.max_pool2d]),
            (_max_pool(3), [F.max_pool3d, torch.max_pool3d]),
            (_adaptive_max_pool(1), [F.adaptive_max_pool1d]),
            (_adaptive_max_pool(2), [F.adaptive_max_pool2d]),
            (_maximum, everywhere(["max"])),
            (_amax, everywhere(["amax"])),
            (_where, [torch.where]),
            (_chosen, [Tensor.where]),
            (_masked_fill, everywhere(["masked_fill"])),
            (in_place(_masked_fill), [Tensor.masked_fill_]),
            (_as(torch.reshape), [Tensor.reshape_as, Tensor.view_as]),
            (_as(Tensor.expand), [Tensor.expand_as]),
            (_type_as, [Tensor.type_as]),
            (_to, [Tensor.to]),
            (_interpolate, [F.interpolate]),
            (_aside, [*everywhere(ASIDE), *COMPARISONS]),
            (_carry, [*everywhere(REARRANGING), *PROPERTIES]),
        ]
    ),
}

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
