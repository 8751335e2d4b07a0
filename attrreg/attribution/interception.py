"""Runs a model with its operations intercepted, so that each gets the backward of its rule.

No hooks and no surgery on the model: what is replaced is the call, recognised by the function, and
tensors are recognised by identity.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakIdKeyDictionary

from attrreg.attribution.explained import NO_DEPENDENCE
from attrreg.attribution.guards import (
    Graph,
    UnsupportedOperation,
    custom_function,
    module_path,
)
from attrreg.attribution.layers import (
    Affine,
    Convolution,
    Elementwise,
    propagate,
    spread_evenly,
    stabiliser,
    z_box,
)
from attrreg.attribution.rules import Propagation, Rule

__all__ = ["Interception", "Operation", "tensors_in"]

Operation = Callable[..., Any]
Back = Callable[[Tensor], tuple[Tensor | None, ...]]


class Propagated(torch.autograd.Function):
    """A value whose backward pass is written out: it carries relevance ÷ value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, back: Back, *inputs: Tensor) -> Tensor:
        """Return the value; `back` turns g of the value into g of each of the inputs."""
        ctx.back = back
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return g of the inputs."""
        return (None, None, *ctx.back(g))


class Facts:
    """What is known of a live tensor.

    ``nonnegative``: no entry can be below zero. ``gate``: of two factors the one that is more of a
    gate counts as a constant: 2 for sigmoids, softmax and statistics, 1 for other bounded
    functions, 0 for signals. ``unclear``: why it cannot carry relevance, "" where it can. ``raw``:
    if it is a linear rearrangement of the input, the leaves that propagations of the first layer
    have beside the input, rearranged alike. ``convolution``: the layer that made it, where it is a
    convolution's output that a batch norm may read. ``shadow``: what carries relevance in its
    place, where a run is to be differentiable. ``memory``: the address of its storage.
    """

    __slots__ = ("convolution", "gate", "memory", "nonnegative", "raw", "shadow", "unclear")

    def __init__(
        self,
        memory: int,
        nonnegative: bool = False,
        gate: int = 0,
        unclear: str = "",
        raw: tuple[Tensor, ...] | None = None,
        convolution: "Made | None" = None,
        shadow: Tensor | None = None,
    ) -> None:
        self.memory, self.nonnegative, self.gate = memory, nonnegative, gate
        self.unclear, self.raw, self.convolution, self.shadow = unclear, raw, convolution, shadow


class Made(NamedTuple):
    """A convolution whose output a batch norm may read: its input, itself, and a list of its value.

    Once a batch norm is folded into it, the list is emptied: the value is then computed again in
    the unlikely case that something else carries relevance through it, too.
    """

    x: Tensor
    layer: Convolution
    value: list[Tensor]


class Interception(TorchFunctionMode):
    """Runs a model with its operations replaced by those that propagate relevance.

    An operation says how it propagates by the method it ends in: `through` as autograd does,
    `affine` by the rule, `bracket` as a factor that is held constant, `unknown` not at all.

    Parameters
    ----------
    model
        Only named in errors.
    leaf
        The input that requires a gradient. What depends on it is *live*.
    rule
        The propagation.
    operations
        What to do instead of each function.
    queries
        Functions that tell something about a tensor other than its values; they just run.
    absorbed
        Receives what layers keep, or None. The batch must then be a single sample.
    shadow
        For maps that are to be differentiable: a second leaf. Then the model computes as ever, with
        its plain graph, and beside every live tensor that carries relevance goes a *shadow*, made
        from this leaf by operations that are linear in it: brackets and stabilisers enter them as
        factors, with their own graph. The derivative of the output's shadow by this leaf is g,
        and differentiable (the two-pass form).
    bounds
        The smallest and largest possible input, shaped like the leaf, for ``z-box``.
    """

    def __init__(
        self,
        model: nn.Module,
        leaf: Tensor,
        rule: Rule,
        operations: Mapping[Any, Operation],
        queries: frozenset[Any],
        absorbed: Callable[[Tensor], None] | None = None,
        shadow: Tensor | None = None,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.leaf, self.rule = model, leaf, rule
        self.operations, self.queries, self.absorbed = operations, queries, absorbed
        self.is_differentiable = shadow is not None
        # affine layers propagate as autograd does: LRP-0, and nobody keeps accounts
        self.is_plain = (
            rule.convolution == rule.linear == "epsilon"
            and rule.epsilon == 0
            and absorbed is None
            and shadow is None
        )
        # leaves of the first layer's propagation, beside the input itself
        self.leaves: tuple[Tensor, ...] = ()
        if rule.first == "flat":
            self.leaves = (torch.ones_like(leaf, requires_grad=True),)
        elif rule.first == "z-box" and bounds is not None:
            self.leaves = tuple(bound.clone().requires_grad_() for bound in bounds)
        self.graph = Graph(leaf)
        # Looked up by identity, and forgotten with the tensor: what the model has dropped is freed,
        # and no identity is used twice.
        self._facts = WeakIdKeyDictionary()
        self._changed = WeakIdKeyDictionary()  # tensor: what stands for it since an in-place call
        self._facts[leaf] = Facts(_memory(leaf), raw=self.leaves or None, shadow=shadow)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Give a call with a live tensor to the operation that knows it."""
        return self.call(func, *args, **(kwargs or {}))

    def call(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function as the model would: by its operation if a live tensor is concerned."""
        if func in self.queries:
            return func(*args, **kwargs)
        # every value is looked at: one that hides a dependence on the input must not pass
        if not sum([self._concerns(value) for value in (*args, *kwargs.values())]):
            return func(*args, **kwargs)
        operation = self.operations.get(func)
        if operation is None or kwargs.get("out") is not None:
            self.refuse(func)
        try:
            return operation(self, func, *args, **kwargs)
        except TypeError as error:
            self.refuse(func, f"is called in a form that has no relevance rule ({error})")

    def _concerns(self, value: Any) -> bool:
        """Whether a live tensor is in a value; refuses one that escaped the interception."""
        if isinstance(value, Tensor):
            if value in self._facts:
                return True
            if value.grad_fn is not None:
                self.check(value)
        elif isinstance(value, list | tuple):
            return sum([self._concerns(item) for item in value]) > 0
        return False

    def refuse(self, func: Any, because: str = "has no relevance rule") -> NoReturn:
        """Raise for an operation, by its name and the module that calls it."""
        names = {_name(function) for function in self.operations}
        known = ", ".join(sorted(name for name in names if name.islower() and "." not in name))
        raise UnsupportedOperation(
            f"{self.where(func)} of {type(self.model).__name__} {because}. The rules 'gradient' "
            "and 'gradient-x-input' work on every differentiable model. Operations with a "
            f"relevance rule are {known}"
        )

    def refuse_first(self) -> NoReturn:
        """Raise where a rule for the first layer found none that carries relevance."""
        raise UnsupportedOperation(
            f"rule {self.rule.name!r} needs a convolution or linear layer that reads the input, "
            f"or a rearrangement of it; {type(self.model).__name__} has none that carries "
            "relevance: use a rule without 'flat' and 'z-box'"
        )

    def where(self, func: Any) -> str:
        """Return the name of a function and of the module that calls it."""
        path = module_path({id(module): name for name, module in self.model.named_modules()})
        return (resolve_name(func) or _name(func)) + (f" in module {path!r}" if path else "")

    def facts(self, tensor: Any) -> Facts | None:
        """Return what is known of a tensor, None where it does not depend on the input."""
        return self._facts.get(tensor) if isinstance(tensor, Tensor) else None

    def is_live(self, value: Any) -> bool:
        """Whether the value is a tensor that depends on the input."""
        return self.facts(value) is not None

    def known(self, tensor: Tensor) -> Facts:
        """Return what is known of a live tensor."""
        facts: Facts = self._facts[tensor]
        return facts

    def is_nonnegative(self, tensor: Tensor) -> bool:
        """Whether no entry of the tensor can be negative, as far as is known without looking."""
        facts = self.facts(tensor)
        return facts is not None and facts.nonnegative

    def settle(self, tensor: Any) -> Any:
        """Return what stands for a tensor after the in-place calls of the model."""
        while tensor in self._changed:
            tensor = self._changed[tensor]
        return tensor

    def check(self, tensor: Tensor) -> None:
        """Refuse a tensor that depends on the input in a way that was not intercepted."""
        hidden = self.graph.hidden(tensor)
        if hidden is not None:
            raise UnsupportedOperation(
                f"{type(self.model).__name__} computes {hidden} where attrreg cannot see it "
                "(scripted or traced code, or an autograd.Function); relevance has no rule for it. "
                "The rules 'gradient' and 'gradient-x-input' work on every differentiable model."
            )

    def result(self, logits: Tensor) -> Tensor:
        """Return what carries the relevance of the model's output.

        Raises
        ------
        UnsupportedOperation
            Some of it has passed an operation without a rule, or none comes from the input.
        """
        self.check(logits)
        facts = self.facts(logits)
        if facts is None:
            raise UnsupportedOperation(NO_DEPENDENCE)
        if facts.unclear:
            raise UnsupportedOperation(
                f"{facts.unclear}, and the output of {type(self.model).__name__} depends on it. "
                "The rules 'gradient' and 'gradient-x-input' work on every differentiable model."
            )
        return logits if facts.shadow is None else facts.shadow

    def hold(self, value: Any) -> Any:
        """Return a value as a factor that relevance does not flow into."""
        return value.detach() if isinstance(value, Tensor) and not self.is_differentiable else value

    def constant(self, value: Any, like: Tensor) -> Any:
        """Return a summand that does not depend on the input, and keeps its share of relevance.

        A number becomes a tensor shaped like the other summand, where accounts are kept.
        """
        if self.absorbed is None:
            return self.hold(value)
        absorbed = self.absorbed
        if isinstance(value, Tensor):
            value = value.detach()
            value = value if value.is_floating_point() else value.to(like.dtype)
        else:
            value = torch.full_like(like, value)

        def back(g: Tensor) -> tuple[None]:
            absorbed(torch.where(g == 0, 0, value * g))  # the value may be infinite
            return (None,)

        # tied to the input, since autograd runs nothing that does not lead there
        return Propagated.apply(value, back, self.leaf)

    def change(self, func: Any, tensor: Tensor, by: Tensor) -> Tensor:
        """Let every later reading of a tensor, changed in place by the model, see the result."""
        if by.shape != tensor.shape or by.dtype != tensor.dtype:
            self.refuse(func, "changes in place a tensor of another shape or type")
        tensor = self.settle(tensor)
        memory = _memory(tensor)
        if sum(facts.memory == memory for facts in self._facts.values()) > 1:
            self.refuse(func, "changes in place a tensor whose memory another one shares")
        self._changed[tensor] = by
        return by

    def through(
        self,
        func: Any,
        apply: Callable[..., Any],
        inputs: Sequence[Tensor],
        nonnegative: bool = False,
        rearranges: bool = False,
        scales: bool = False,
        signal: bool = False,
        linear: Callable[..., Any] | None = None,
    ) -> Any:
        """Propagate relevance as autograd propagates gradients.

        Parameters
        ----------
        func
            The operation, for errors.
        apply
            From the values of `inputs` to a tensor or tensors: homogeneous (a sum of its inputs
            times factors that do not change when all inputs are scaled) up to `constant` summands.
        inputs
            Live tensors.
        nonnegative
            Whether the result cannot be negative.
        rearranges, scales
            Whether it is linear, with weights that are not negative, or whether it scales and
            shifts every entry by itself: then what reads the result still reads the input.
        signal
            Whether the result is a signal even where all inputs are gates.
        linear
            From the shadows of `inputs` to that of the result, where `apply` is not linear.
        """
        known = [self.known(tensor) for tensor in inputs]
        gate = 0 if signal else min(facts.gate for facts in known)
        unclear = next((facts.unclear for facts in known if facts.unclear), "")
        if unclear:
            return self.unknown(func, lambda: apply(*inputs), inputs, unclear, gate)
        output = apply(*inputs)
        if any(output is tensor for tensor in inputs):
            return output
        if isinstance(output, Tensor) and not output.is_floating_point():
            self.refuse(func, "turns what carries relevance into whole numbers")
        raw: Sequence[Any] | None = None
        if (rearranges or scales) and all(facts.raw is not None for facts in known):
            leaves = list(zip(*(facts.raw for facts in known if facts.raw), strict=True))
            raw = [_in_order(apply(*each)) for each in leaves]
            if scales and len(raw) == 2:  # a negative factor turns the bounds round
                low, high = raw[0][0], raw[1][0]
                raw = [[torch.minimum(low, high)], [torch.maximum(low, high)]]
            elif scales:
                raw = [[leaves[0][0].expand_as(output)]]
        shadows = None
        if self.is_differentiable:
            shadows = _in_order((linear or apply)(*(facts.shadow for facts in known)))
        for place, each in enumerate(_in_order(output)):
            self._admit(
                func,
                each,
                inputs,
                nonnegative=nonnegative,
                gate=gate,
                raw=None if raw is None else tuple(leaf[place] for leaf in raw),
                shadow=None if shadows is None else shadows[place],
            )
        return output

    def unknown(
        self,
        func: Any,
        apply: Callable[[], Any],
        inputs: Sequence[Tensor],
        why: str = "",
        gate: int = 0,
    ) -> Any:
        """Let a result be used as a gate only, or not at all where relevance would flow into it.

        `why` says so in an error, should relevance need to flow; `gate` is as in `Facts`.
        """
        why = why or f"{self.where(func)} has a relevance rule only where its result is a gate"
        if self.is_differentiable:
            output = apply()
        else:
            with torch.no_grad():
                output = apply()
            # a node of its own, so that the audit sees whatever hidden code makes of it
            marked = [Propagated.apply(each, _nothing, *inputs) for each in _in_order(output)]
            output = _like(output, marked)
        for each in _in_order(output):
            self._admit(func, each, inputs, gate=gate, unclear=why)
        return output

    def bracket(
        self,
        func: Any,
        x: Tensor,
        value: Callable[[Tensor, Any], Tensor] | None,
        factor: Callable[[Tensor], Any],
        offset: Tensor | float = 0.0,
        nonnegative: bool = False,
        gate: int = 0,
        forward: Callable[[Tensor, Any], Tensor] = torch.mul,
        adjoint: Callable[[Tensor, Any], Tensor] = torch.mul,
    ) -> Tensor:
        """Propagate through y = A(x)·x + offset, with A held as it is.

        Parameters
        ----------
        x
            A live tensor.
        value, factor
            From x to what A is made of, without more an elementwise factor; from x and that to y
            (None: A·x, where there is no offset).
        offset
            What absorbs relevance.
        nonnegative
            Whether y cannot be negative.
        gate
            How much of a gate y is, at least; see `Facts`.
        forward, adjoint
            A and its adjoint, from a vector and what `factor` gave.
        """
        facts = self.known(x)

        def compute() -> tuple[Tensor, Any]:
            held = factor(x)
            return (forward(x, held) if value is None else value(x, held)), held

        if facts.unclear:
            why, gate = facts.unclear, max(gate, facts.gate)
            return self.unknown(func, lambda: compute()[0], [x], why, gate)
        shadow = None
        if self.is_differentiable:
            output, held = compute()
            shadow = forward(_shadow(facts), held)
        else:
            with torch.no_grad():
                y, held = compute()
            absorbed = self.absorbed

            def back(g: Tensor) -> tuple[Tensor]:
                if absorbed is not None:
                    absorbed(offset * g)
                return (adjoint(g, held),)

            output = Propagated.apply(y, back, x)
        return self._admit(
            func, output, [x], nonnegative=nonnegative, gate=max(gate, facts.gate), shadow=shadow
        )

    def affine(
        self,
        func: Any,
        x: Tensor,
        layer: Affine,
        how: Propagation,
        compute: Callable[[], Tensor] | None = None,
        foldable: bool = False,
    ) -> Tensor:
        """Put an affine layer into the graph under a propagation.

        Parameters
        ----------
        x
            Its input, live.
        layer, how
            The layer, and its propagation unless the rule has another for the first layer.
        compute
            Gives its value, where that is known already.
        foldable
            Whether it is a convolution whose output a batch norm may read.
        """
        facts = self.known(x)
        compute = compute or partial(layer.forward, x)
        if facts.unclear:
            return self.unknown(func, compute, [x], facts.unclear, facts.gate)
        if torch.is_autocast_enabled(x.device.type):
            self.refuse(func, "runs under autocast, which the model switches on by itself")
        if facts.raw is not None and isinstance(layer, Elementwise):
            shift = None if layer.bias is None else self.constant(layer.bias, x)
            shifted = replace(layer, bias=shift)
            return self.through(func, shifted.forward, [x], scales=True)
        tiles = (
            isinstance(layer, Convolution) and layer.tiles
        )  # its backward is faster than torch's
        if self.is_plain and facts.raw is None and not tiles:
            return self.through(func, layer.forward, [x], signal=True)
        if self.is_differentiable:
            z = compute()
            made = Made(x, layer, []) if foldable and isinstance(layer, Convolution) else None
            shadow = layer.forward(_shadow(facts))
            if self.rule.epsilon:
                shadow = shadow * stabiliser(layer, z, self.rule.epsilon)
            return self._admit(func, z, [x], convolution=made, shadow=shadow)
        with torch.no_grad():
            output = compute()
        value = [output]
        made = Made(x, layer, value) if foldable and isinstance(layer, Convolution) else None
        # The graph must not hold this object, which holds the graph: such a circle keeps every
        # activation in memory until the garbage collector looks, and costs a factor of four.
        plain, absorbed = x.detach(), self.absorbed
        rule, nonnegative = self.rule, facts.nonnegative
        leaves = tuple(leaf.detach() for leaf in facts.raw or ())

        def back(g: Tensor) -> tuple[Tensor | None, ...]:
            z = value[0] if value else layer.forward(plain)
            if not leaves:
                return (propagate(layer, how, rule, plain, z, g, nonnegative, absorbed),)
            if rule.first == "flat":
                return None, spread_evenly(layer, z * g, leaves[0], absorbed)
            return z_box(layer, plain, leaves[0], leaves[1], z * g, absorbed)

        output = Propagated.apply(output, _unchanged(layer, back), x, *(facts.raw or ()))
        return self._admit(func, output, [x], convolution=made)

    def _admit(self, func: Any, output: Tensor, inputs: Sequence[Tensor], **facts: Any) -> Tensor:
        """Take note of what an operation has made of live tensors."""
        if output.grad_fn is None:
            function = custom_function()
            inside = f" (inside the autograd.Function {function})" if function else ""
            self.refuse(func, f"is computed without a graph{inside}")
        self.graph.admit(output, inputs)
        self._facts[output] = Facts(_memory(output), **facts)
        return output


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value or in the containers it is made of."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def _in_order(output: Any) -> Sequence[Tensor]:
    """Return the tensors that an operation returned; indices are none of them."""
    each = output if isinstance(output, list | tuple) else [output]
    return [tensor for tensor in each if tensor.is_floating_point()]


def _like(output: Any, tensors: Sequence[Tensor]) -> Any:
    if not isinstance(output, list | tuple):
        return tensors[0]
    waiting = iter(tensors)
    return type(output)([next(waiting) if each.is_floating_point() else each for each in output])


def _unchanged(layer: Affine, back: Back) -> Back:
    """Let a backward pass raise where a weight has been overwritten since, as autograd's do."""
    used = [each for each in (layer.weight, layer.bias) if each is not None]
    versions = [(each, each._version) for each in used if not each.is_inference()]

    def checked(g: Tensor) -> tuple[Tensor | None, ...]:
        if any(each._version != version for each, version in versions):
            raise UnsupportedOperation(
                f"the model has changed the weight of a {type(layer).__name__.lower()} layer in "
                "place after using it"
            )
        return back(g)

    return checked


def _nothing(g: Tensor) -> NoReturn:
    raise AssertionError("relevance reached a tensor that cannot carry it")


def _shadow(facts: Facts) -> Tensor:
    if facts.shadow is None:
        raise AssertionError("a tensor that carries relevance has lost its shadow")
    return facts.shadow


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _name(func: Any) -> str:
    return getattr(func, "__name__", str(func)).strip("_")
