"""Whether the relevance engine is right on an architecture of timm: supported, refused, or wrong.

The checks need no trained weights and no knowledge of the architecture. The model is built at the
smallest image that it takes. What timm starts at a constant (norms, layer scales, biases, last
layers of residual branches) gets seeded random values, and batch norms get the statistics of random
images, so that no branch is silent: nothing would be checked in it. For every rule, in double
precision:

* the explained output is the logit of the model as it runs without the engine;
* the map and what is absorbed add up to it, for rules that conserve;
* the map is finite and not zero everywhere;
* the map of a sample is the same alone and in a batch;
* the model and the random stream are as before.

Then the map of single precision is that of double precision; or it differs no more than
rounding the weights explains, or than gradients do, for some random networks are chaotic. At last
everything that is added anywhere is set to zero (biases, shifts, position embeddings, class
tokens), and the map alone adds up to the logit: nothing was absorbed that should not be. A model
with other additions, whose logits are then not zero for a black image, is spared this.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attrreg import catalogue, models
from attrreg.attribution.engine import ledger, relevance
from attrreg.attribution.guards import UnsupportedOperation
from attrreg.attribution.rules import RULES, Rule, resolve_rule
from attrreg.files import writing

__all__ = ["LAYERWISE", "Verdict", "judge", "layerwise", "names_in", "write_table"]

LAYERWISE = tuple(name for name, rule in RULES.items() if rule.backward == "layers")
SIZES = (32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448, 512)  # pixels
MANY = 60_000_000  # parameters; beyond, a batch is one sample
BOUND = 4.0  # inputs lie within ± this, which the z-box is told
CLASSES = 10
UNBALANCED = 1e-3  # of the explained output, or of 1 where that is smaller
DIFFERENT = 1e-6  # norm of a difference, relative to that of a map in double precision
UNLIKE = 1e-2  # the same between single and double precision
ROUNDING = 2.0**-24  # of a number in single precision
LITTLE = 1e-7  # the stabiliser's ε where nothing may be absorbed
ADDED = ("bias", "beta", "running_mean", "pos_embed", "token")  # how the names of additions end
ROW = re.compile(r"\| `([\w.-]+)` \|")


class _Wrong(Exception):
    """A check that failed."""


@dataclass(frozen=True)
class Verdict:
    """What became of a model.

    Parameters
    ----------
    model
        The name that was asked for.
    outcome
        ``supported``: every check passed for every rule; ``refused``: the engine said that it has
        no rule for an operation; ``fails``: a check did not pass, or something else was raised.
    reason
        Why it was refused or what failed, and by which rules if not by all; empty where it is
        supported.
    parameters
        How many numbers the model learns.
    size, batch
        Height and width of the images in pixels, 0 if the model takes none; how many samples.
    residual
        The largest share of the explained output that is neither in the map nor absorbed, by the
        rules that pass this; None if none does.
    lost
        The same share that is not in the map where nothing is added; None also where that could not
        be asked.
    seconds
        How long it took.
    """

    model: str
    outcome: Literal["supported", "refused", "fails"]
    reason: str = ""
    parameters: int = 0
    size: int = 0
    batch: int = 0
    residual: float | None = None
    lost: float | None = None
    seconds: float = 0.0

    @property
    def said(self) -> str:
        """The outcome and its reason."""
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome

    def __str__(self) -> str:
        facts = [f"{self.parameters / 1e6:.1f} M parameters"] if self.parameters else []
        if self.size:
            facts.append(f"{self.batch} × 3 × {self.size} × {self.size}")
        if self.residual is not None:
            facts.append(f"residual {self.residual:.0e}")
        if self.lost is not None:
            facts.append(f"{self.lost:.0e} without biases")
        return f"{self.model}: {self.said} ({', '.join([*facts, f'{self.seconds:.0f} s'])})"


def layerwise(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of layer-wise rules, all where none is given.

    Raises
    ------
    ValueError
        No such rule, or none that keeps a ledger.
    """
    for name in names:
        if resolve_rule(name).backward != "layers":
            raise ValueError(
                f"rule {name!r} keeps no ledger: give layer-wise ones, {', '.join(LAYERWISE)}"
            )
    return tuple(names) or LAYERWISE


def judge(name: str, rules: Sequence[str] = LAYERWISE) -> Verdict:
    """Build an image model and check every rule on it; see the module.

    What a model raises does not leave this function. Torch's random stream is given back.

    Parameters
    ----------
    name
        A name of the catalogue or of timm.
    rules
        Names of layer-wise rules.

    Raises
    ------
    KeyError
        Unknown model; the message gives the nearest match.
    """
    entry = catalogue.model(name)
    begun = time.perf_counter()
    found = Verdict(name, "fails")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model, shape = _built(name, entry)
            parameters = sum(each.numel() for each in model.parameters())
            batch = 2 if parameters <= MANY else 1
            found = replace(found, parameters=parameters, size=shape[-1], batch=batch)
            _enliven(model, shape)
            x = torch.randn(batch, *shape, dtype=torch.float64).clamp_(-BOUND, BOUND)
            checks = _Checks([_bounded(each) for each in rules])
            checks.run(model.double(), x)
            found = replace(found, **checks.verdict())
        except _Wrong as wrong:
            found = replace(found, reason=str(wrong))
        except Exception as error:  # of any kind: the next model has its turn
            found = replace(found, reason=f"{type(error).__name__}: {_line(error)}")
    return replace(found, seconds=time.perf_counter() - begun)


def names_in(path: Path) -> list[str]:
    """Return the models in a table that `write_table` wrote, none if there is no such file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [row.group(1) for row in map(ROW.match, lines) if row]


def write_table(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts as a Markdown table, sorted by name, with versions and the date."""
    counts = {kind: sum(each.outcome == kind for each in verdicts) for kind in _MEANING}
    lines = [
        "# Which architectures of timm can be explained",
        "",
        f"Checked on {date.today().isoformat()} with timm {timm.__version__} and torch "
        f"{torch.__version__}, on a CPU: {len(verdicts)} architectures with random weights, by the "
        f"rules {', '.join(f'`{name}`' for name in LAYERWISE)}.",
        "",
        *(f"* **{kind}** ({count}): {_MEANING[kind]}" for kind, count in counts.items()),
        "",
        "What is checked, and why it does not need trained weights, is told in "
        "`attrreg/attribution/verdict.py`. *Residual*: the largest share of the explained logit "
        "that is neither in the map nor absorbed by a bias. *Without biases*: the largest share "
        f"that is not in the map, with biases set to zero and ε = {LITTLE:g}; empty where a model "
        "adds constants that are no biases. Both are in double precision, by the rules that pass "
        "them.",
        "",
        "Check another one with `attrreg models --check <name>`; write this table again with "
        f"`attrreg models --table {path}`, or with more rows by adding `--check <name>`.",
        "",
        "| architecture | million parameters | pixels | residual | without biases | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for each in sorted(verdicts, key=lambda each: each.model):
        numbers = ["" if one is None else f"{one:.0e}" for one in (each.residual, each.lost)]
        cells = [
            f"{each.parameters / 1e6:.1f}",
            str(each.size),
            *numbers,
            each.said.replace("|", "\\|"),
        ]
        lines.append(f"| `{each.model}` | {' | '.join(cells)} |")
    with writing(path) as temporary:
        temporary.write_text("\n".join([*lines, ""]))


_MEANING = {
    "supported": "every check passed for every rule",
    "refused": "the engine has no rule for an operation and says so; gradients work",
    "fails": "a check did not pass for the rules that are named; do not use those",
}


def _built(name: str, entry: catalogue.Model) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a model in evaluation mode, and the shape of the smallest sample that it takes.

    An architecture of timm is timm's own; one of ours is what training builds.
    """
    any_size: nn.Module | None = None  # a model that is not built for one
    last: Exception | None = None
    for size in SIZES:
        shape = (3, size) if entry.modality == "series" else (3, size, size)
        try:
            if name in catalogue.MODELS:
                model = models.create(name, num_classes=CLASSES, in_chans=3, image_size=size)
            elif any_size is None:
                model = timm.create_model(
                    entry.timm, pretrained=False, num_classes=CLASSES, img_size=size
                )
        except TypeError:  # takes no such argument
            model = any_size = timm.create_model(entry.timm, pretrained=False, num_classes=CLASSES)
        except Exception as error:  # cannot be divided into its windows, and the like
            last = error
            continue
        try:
            with torch.no_grad():
                if model.eval()(torch.zeros(1, *shape)).isfinite().all():
                    return model, shape
        except Exception as error:  # that an image is too small is said in every way
            last = error
    raise _Wrong(f"takes no image of {SIZES[0]} to {SIZES[-1]} pixels: {_line(last)}")


def _enliven(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Replace what starts at a constant by random values, on the scale on which it acts."""
    with torch.no_grad():
        for parameter in model.parameters():
            start = float(parameter.flatten()[0]) if parameter.numel() else 0.0
            if not bool((parameter == start).all()):
                continue
            if start == 0:
                inputs = parameter[0].numel() if parameter.ndim > 1 and len(parameter) > 1 else 1
                parameter.normal_(0, 0.3 / inputs**0.5)
            else:  # scales of residual branches start at 1e-6, too
                parameter.uniform_(0.5, 1.5).mul_(start if abs(start) > 0.1 else 1)
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        hooks = [norm.register_forward_pre_hook(_normalise) for norm in norms]
        model(torch.randn(8, *shape))
        for hook in hooks:
            hook.remove()


def _normalise(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    """Give a batch norm statistics that fit its input, and some weights below zero.

    By the magnitude of the input, not its spread: that would blow up what hardly differs.
    """
    channels = inputs[0].transpose(0, 1).flatten(1)
    share = torch.rand(2, len(channels)) + 0.5
    magnitude = channels.square().mean(1)
    norm.running_mean.copy_(channels.mean(1) * share[0] / 2)
    norm.running_var.copy_(magnitude.clamp_min(0.01 * magnitude.mean()) * 4 * share[1])
    if norm.affine:
        norm.weight[::4] = -norm.weight[::4].abs()


def _bounded(name: str) -> Rule:
    rule = resolve_rule(name)
    return replace(rule, low=-BOUND, high=BOUND) if rule.first == "z-box" else rule


class _Checks:
    """The checks of some rules on one model, and what became of them."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.names = [rule.name for rule in rules]
        self.rules = list(rules)  # that have passed so far
        self.refused: dict[str, list[str]] = {}  # why: by which rules
        self.wrong: dict[str, list[str]] = {}
        self.residual: float | None = None  # the largest
        self.lost: float | None = None

    def run(self, model: nn.Module, x: Tensor) -> None:
        """Check a model of double precision; afterwards it is of no use."""
        y, output = _explained(model, x)
        before = _fingerprint(model)
        maps = self._each(lambda rule: self._accounted(model, x, y, output, rule))
        if _fingerprint(model) != before:
            raise _Wrong("the model or the random stream is not what it was before")
        plain = RULES["gradient-x-input"]  # which the engine has no part in
        maps[plain] = relevance(model, x, y, plain)
        model.float()
        single = {rule: relevance(model, x.float(), y, rule).double() for rule in maps}
        model.double()
        unlike = [rule for rule in self.rules if _apart(single[rule], maps[rule]) > UNLIKE]
        with torch.no_grad():
            for values in model.state_dict().values() if unlike else ():
                if values.is_floating_point():
                    values.mul_(1 + ROUNDING * torch.randn_like(values))

        def precise(rule: Rule) -> None:
            if rule in unlike:
                rounded = _apart(relevance(model, x, y, rule), maps[rule])
                allowed = 10 * max(rounded, _apart(single[plain], maps[plain]))
                _same("single and double precision", single[rule], maps[rule], allowed)

        self._each(precise)
        with torch.no_grad():
            for name, values in model.state_dict().items():
                if name.endswith(ADDED):
                    values.zero_()
            adds_more = bool(model(torch.zeros_like(x)).any())
        if not adds_more:
            y, output = _explained(model, x)
            self._each(lambda rule: self._arrived(model, x, y, output, rule))

    def verdict(self) -> dict[str, Any]:
        """Return the fields of a verdict."""
        problems = (self.refused | self.wrong).items()
        return {
            "outcome": "fails" if self.wrong else "refused" if self.refused else "supported",
            "reason": "; ".join(self._by(names) + reason for reason, names in problems),
            "residual": self.residual,
            "lost": self.lost,
        }

    def _by(self, names: Sequence[str]) -> str:
        """Say by which rules, if not by all."""
        others = [name for name in self.names if name not in names]
        if not others:
            return ""
        shown = ", ".join(names) if len(names) <= len(others) else f"all but {', '.join(others)}"
        return f"{shown}: "

    def _each(self, check: Callable[[Rule], Any]) -> dict[Rule, Any]:
        """Check the rules that have passed so far; return what the check says of each."""
        found = {}
        for rule in tuple(self.rules):
            try:
                found[rule] = check(rule)
            except UnsupportedOperation as refusal:
                # the rest of the message says what is supported, and is the same for all
                reason = re.split(r"; supported op|, and the output| The rules ", str(refusal))[0]
                self.refused.setdefault(_line(reason), []).append(rule.name)
                self.rules.remove(rule)
            except _Wrong as wrong:
                self.wrong.setdefault(str(wrong), []).append(rule.name)
                self.rules.remove(rule)
        return found

    def _accounted(
        self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor, rule: Rule
    ) -> Tensor:
        accounts = ledger(model, x, y, rule)
        if not accounts.relevance.isfinite().all():
            raise _Wrong("the map is not finite")
        if not accounts.relevance.flatten(1).any(1).all():
            raise _Wrong("the map is zero everywhere")
        scale = output.abs().clamp_min(1)
        if ((accounts.explained - output).abs() / scale).max() > DIFFERENT:
            raise _Wrong("the explained output is not the logit of the model")
        if rule.conserves:
            missing = accounts.relevance.flatten(1).sum(1) + accounts.absorbed - output
            residual = float((missing.abs() / scale).max())
            if not residual <= UNBALANCED:
                raise _Wrong(
                    f"{residual:.0e} of the output is unaccounted for"
                    + _grown(accounts.relevance, scale)
                )
            self.residual = max(self.residual or 0, residual)
        together = relevance(model, x, y, rule)
        _same("a sample alone and in a batch", together, accounts.relevance, DIFFERENT)
        return accounts.relevance

    def _arrived(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor, rule: Rule) -> None:
        if rule.conserves:
            found = relevance(model, x, y, replace(rule, epsilon=rule.epsilon and LITTLE))
            lost = float(((found.flatten(1).sum(1) - output) / output).abs().max())
            if not lost <= UNBALANCED:
                raise _Wrong(
                    f"{lost:.0e} of the output is lost where nothing absorbs"
                    + _grown(found, output)
                )
            self.lost = max(self.lost or 0, lost)


def _explained(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predicted classes (n,) and their logits (n,)."""
    with torch.no_grad():
        logits = model(x.clone())
    if logits.shape != (len(x), CLASSES) or not logits.isfinite().all():
        raise _Wrong(f"gives no finite logits for {CLASSES} classes")
    y = logits.argmax(1)
    return y, logits.gather(1, y[:, None])[:, 0]


def _grown(found: Tensor, output: Tensor) -> str:
    """Say how much larger than the output a map is, if so much that rounding decides."""
    times = float((found.abs().flatten(1).sum(1) / output.abs()).max())
    return f": the map's magnitudes are {times:.0e} times as large" if times > 1e6 else ""


def _same(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raise where the maps of a sample differ."""
    difference = _apart(found, expected)
    if not difference <= tolerance:
        raise _Wrong(f"the maps of {what} differ by {difference:.0e}")


def _apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest distance between two maps of a sample, relative to the expected one."""
    difference = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    return float(difference.max())


def _fingerprint(model: nn.Module) -> list[Any]:
    """Return what must be equal before and after: every bit, gradient, flag and hook."""
    bits = [(name, _digest(each)) for name, each in model.state_dict().items()]
    gradients = [name for name, each in model.named_parameters() if each.grad is not None]
    flags = [(name, module.training) for name, module in model.named_modules()]
    hooks = [
        (name, kind, len(held))
        for name, module in model.named_modules()
        for kind, held in vars(module).items()
        if kind.endswith("_hooks")
    ]
    return [bits, gradients, flags, hooks, _digest(torch.get_rng_state())]


def _digest(tensor: Tensor) -> int:
    return crc32(tensor.numpy().tobytes())


def _line(said: object) -> str:
    """Return the first line of a message, without the full stop."""
    return str(said).strip().partition("\n")[0].rstrip(". ")
