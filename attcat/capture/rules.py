"""Gradient rules: what the backward pass does where plain differentiation misleads.

A rule leaves every *value* of the forward pass as it is and changes only *gradients*. It is a table from torch functions
to replacements, consulted by a `TorchFunctionMode` during one forward pass in the current thread; it knows operations, not
architectures, and leaves nothing behind.

`plain`
    No replacement: the published AttCAT.
`libra` (LibraGrad, Mehri et al. 2024, arXiv 2411.16760)
    The network becomes locally linear in its hidden states, so that gradient x input, summed over tokens, plus the biases
    is the logit. Attention weights and the denominators of normalisations count as constants, an activation as its input
    times a constant gate, and of a product of two hidden states each factor gets half of the gradient.
`attnlrp` (AttnLRP, Achtibat et al., ICML 2024)
    As `libra`, but softmax is differentiated, so that what decides where the model looks has a share, too.
`graded`
    Between the two: softmax is differentiated in part, by `beta`, from 0 (`libra`) to 1 (`attnlrp`).
`gim` (Gradient interaction modifications, Edin et al. 2025, arXiv 2505.17630), `reslrp`
    Rivals, to compare with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import Option, OptionError
from .attention import Call, mix
from .linearised import gate, group_norm, instance_norm, late_gate, layer_norm, rms_norm

TorchFunction = Callable[..., Any]


class Rule:
    """A gradient rule: one instance serves one forward pass.

    `replacements` maps a torch function to what is called in its place, with the same arguments and the function itself
    in front. The plain rule replaces nothing.
    """

    name: ClassVar[str] = "plain"
    options: ClassVar[Mapping[str, float]] = {}
    """What can be chosen when the rule is made, and what it is by default."""
    weight_share: float = 1.0
    """How much of the gradient of a mix of values its weights are given, where a method asks for their gradient."""

    def is_gate(self, x: Tensor) -> bool:
        """Whether a result becomes a gate when a number is added to it."""
        return False

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """From a torch function to what is called in its place: `replacement(function, *args, **kwargs)`."""
        return {}


class Explicit(ABC):
    """What a rule is too if the fused attention kernel does not follow it: it computes attention by itself."""

    @abstractmethod
    def attend(self, call: Call, value: Tensor) -> tuple[Tensor, Tensor]:
        """Attention with its matrix in the graph.

        Returns:
            The output `[B, H, T, d]` and the weights `[B, H, T, S]`, with respect to which one can differentiate.
        """


@cache
def named(*names: str) -> list[TorchFunction]:
    """Every spelling of an operation: `torch.f`, `torch.nn.functional.f`, `Tensor.f`, `Tensor.__f__`."""
    places = (torch, F, Tensor)
    found = [getattr(place, spelling, None) for name in names for spelling in (name, f"__{name}__") for place in places]
    return [function for function in found if function is not None]


THROUGH_ZERO: tuple[TorchFunction, ...] = (
    F.selu,
    F.celu,
    F.relu6,
    F.hardtanh,
    F.softsign,
    F.tanhshrink,
    *named("expm1", "log1p", "atan", "arctan", "asinh", "arcsinh"),
)
"""Other functions of one number that are 0 at 0."""


class Libra(Rule):
    """LibraGrad: see the module's text."""

    name = "libra"
    value_share: float = 1.0
    """How much of the gradient of a mix of values its values are given."""

    def __init__(self) -> None:
        self._saturating = WeakIdKeyDictionary()  # results of tanh, which become a gate once a constant is added

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """Attention, normalisations, activations and products of hidden states."""
        table: dict[TorchFunction, TorchFunction] = {
            F.layer_norm: layer_norm,
            F.rms_norm: rms_norm,
            F.group_norm: group_norm,
            F.instance_norm: instance_norm,
        }
        groups: tuple[tuple[list[TorchFunction], TorchFunction], ...] = (
            (named("softmax"), _constant_result),
            (
                [
                    *named("rsqrt", "sqrt", "norm", "std", "reciprocal", "rdiv", "rtruediv"),
                    torch.linalg.vector_norm,
                    torch.linalg.norm,
                ],
                _constant_result,
            ),
            (
                [*named("sigmoid", "erf", "exp"), F.softplus, F.hardsigmoid, F.logsigmoid, torch.special.erf],
                _constant_result,
            ),
            ([F.gelu, F.silu, F.mish, F.elu, F.hardswish, *THROUGH_ZERO], gate),
            (named("clamp", "clip"), _clamped),
            ([F.glu], _gated_half),
            (named("tanh"), self._tanh),
            (named("add", "__radd__"), self._add),
            (named("mul", "multiply", "matmul", "bmm", "mm", "mv", "dot", "outer", "inner"), self._product),
            (
                [torch.baddbmm, Tensor.baddbmm, torch.addbmm, Tensor.addbmm, torch.addcmul, Tensor.addcmul],
                self._added_product,
            ),
            ([torch.einsum], self._einsum),
            (named("div", "divide", "true_divide"), _quotient),
            (named("pow", "square"), _power),
            ([torch.linalg.solve_triangular, torch.linalg.solve], _solution),
            ([F.grid_sample], _sampled),
        )
        for functions, replacement in groups:
            table.update(dict.fromkeys(functions, replacement))
        table[F.scaled_dot_product_attention] = _attention
        return table

    def _product(self, function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
        """a * b of two hidden states, a function of degree two, of which each factor gets half; weights have a share apart."""
        if not (varies(a) and varies(b)):
            result: Tensor = function(a, b, **options)
            return result
        of_a = of_b = 0.5
        if _made_of_weights(a):
            of_a, of_b = self.weight_share, self.value_share
        elif _made_of_weights(b):
            of_a, of_b = self.value_share, self.weight_share
        shared: Tensor = function(*shared_by((of_a, of_b), a, b), **options)
        return shared

    def _added_product(self, function: TorchFunction, x: Any, *factors: Any, **options: Any) -> Tensor:
        """x + a * b; see `_product`."""
        named_so = [name for name in ("batch1", "tensor1", "batch2", "tensor2") if name in options]
        a, b = (*factors, *map(options.pop, named_so))
        return self._product(lambda a, b: function(x, a, b, **options), a, b)

    def _einsum(self, function: TorchFunction, equation: Any, *operands: Any) -> Tensor:
        """A product of any number of hidden states, each of which gets its share; see `_product`."""
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        factors = [index for index, x in enumerate(operands) if varies(x)]

        def product(*given: Tensor) -> Tensor:
            result: Tensor = function(
                equation, *(given[factors.index(i)] if i in factors else x for i, x in enumerate(operands))
            )
            return result

        if len(factors) == 2:
            return self._product(product, *(operands[index] for index in factors))
        return product(*shared_by([1 / len(factors) for _ in factors], *(operands[index] for index in factors)))

    def is_gate(self, x: Tensor) -> bool:
        """tanh(u), of a GELU that is written out."""
        return x in self._saturating

    def _tanh(self, function: TorchFunction, x: Tensor) -> Tensor:
        result = late_gate(function, x)  # mostly half of a GELU that is written out, where no gradient arrives
        self._saturating[result] = True
        return result

    def _add(self, function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
        """1 + tanh(u) is the gate of a GELU written out in elementary operations (GPT-2's `gelu_new`)."""
        result: Tensor = function(a, b, **options)
        for x, constant in ((a, b), (b, a)):
            if isinstance(x, Tensor) and x in self._saturating and isinstance(constant, (int, float)):
                return result.detach()
        return result


class Graded(Libra):
    """Softmax differentiated in part: (1 - beta) times `libra` plus beta times `attnlrp`, at every attention.

    `libra` gives a mix of values `sum_j a_ij v_j` wholly to the values. `attnlrp` gives them half, and the other half to the
    weights, which share it between queries and keys. In between the values get 1 - beta/2, queries and keys beta/4 each.
    These are factors of the gradients at the inputs of attention, whose kernel differentiates the rest: no attention
    matrix is held.

    Args:
        beta: from 0, where attention counts as constant, to 1.

    Raises:
        OptionError: if beta is not between 0 and 1.
    """

    name = "graded"
    options: ClassVar[Mapping[str, float]] = {"beta": 0.75}

    def __init__(self, beta: float = 0.75) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise OptionError(Option("beta", beta), ", expected a number from 0 (libra) to 1 (attnlrp)")
        self.beta = beta
        if beta:
            self.value_share, self.weight_share = 1 - beta / 2, 0.5  # softmax passes beta of the latter on

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """Libra's, with another attention: fused, or softmax and the products on its two sides."""
        table = dict(super().replacements())
        if self.beta:
            table[F.scaled_dot_product_attention] = self._attention
            table.update(dict.fromkeys(named("softmax"), self._softmax))
        return table

    def _attention(
        self, function: TorchFunction, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        shares = (self.beta / 4, self.beta / 4, self.value_share)
        result: Tensor = function(*shared_by(shares, query, key, value), *args, **options)
        return result

    def _softmax(self, function: TorchFunction, *args: Any, **options: Any) -> Tensor:
        weights: Tensor = function(*args, **options)
        return as_weights(weights, self.beta) if weights.requires_grad else weights


class AttnLRP(Graded):
    """AttnLRP (Achtibat et al., ICML 2024) in its gradient form: input times this gradient is the relevance.

    As LibraGrad, but attention is not constant: softmax is differentiated (deep Taylor expansion, their eq. 13), and the
    products query x key and weight x value are shared equally between their factors (their eq. 15). Linear layers
    follow the epsilon rule with epsilon = 0; the paper's gamma rule for vision models is not applied.
    """

    name = "attnlrp"
    options: ClassVar[Mapping[str, float]] = {}

    def __init__(self) -> None:
        super().__init__(beta=1.0)


class GIM(Libra, Explicit):
    """Gradient interaction modifications (Edin et al. 2025, arXiv 2505.17630), after the formulas of their code.

    Denominators of normalisations are constants, as in LibraGrad. Values get 1/2 of their gradient, queries and keys 1/4, the
    factors of a gated layer 1/2 each. Softmax is differentiated as if its temperature were higher, so that a token to which
    nearly all attention goes does not hide the others. Activations are differentiated as they are.

    Args:
        temperature: of the softmax in the backward pass.

    Raises:
        OptionError: if it is not positive.
    """

    name = "gim"
    options: ClassVar[Mapping[str, float]] = {"temperature": 2.0}

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise OptionError(Option("temperature", temperature), ", expected a positive number")
        self.temperature = temperature
        self.value_share = self.weight_share = 0.5
        self._activated = WeakIdKeyDictionary()  # what an activation that is written out is made of

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """Libra's normalisations and products, and the softmax; activations are marked, so that x * sigmoid(x) is no product."""
        table = dict(super().replacements())
        as_they_are = {F.gelu, F.silu, F.mish, F.elu, F.hardswish, F.glu, *THROUGH_ZERO}
        as_they_are.update(named("pow", "square", "clamp", "clip"))
        table = {function: replacement for function, replacement in table.items() if function not in as_they_are}
        table.update(dict.fromkeys(named("softmax"), self._softmax))
        marked = [*named("sigmoid", "erf", "tanh"), F.softplus, torch.special.erf]
        table.update(dict.fromkeys(marked, self._mark))
        return table

    def attend(self, call: Call, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both products halved, softmax at the temperature."""
        products = call.products(product=self._halved)
        weights = _Softened.apply(products, products.detach().softmax(-1).nan_to_num(0.0), self.temperature, -1)
        return mix(weights, value, product=self._halved), weights

    def _halved(self, a: Tensor, b: Tensor) -> Tensor:
        return self._product(torch.matmul, a, b)

    def _softmax(self, function: TorchFunction, x: Tensor, *args: Any, **options: Any) -> Tensor:
        axis = args[0] if args else options.get("dim")
        weights = function(x.detach(), *args, **options)
        softened: Tensor = _Softened.apply(x, weights, self.temperature, -1 if axis is None else axis)
        return softened

    def _mark(self, function: TorchFunction, x: Tensor, *args: Any, **options: Any) -> Tensor:
        result: Tensor = function(x, *args, **options)
        self._activated[result] = True
        return result

    def _add(self, function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
        result: Tensor = function(a, b, **options)
        if self._is_activated(a) or self._is_activated(b):
            self._activated[result] = True
        return result

    def _product(self, function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
        if not (self._is_activated(a) or self._is_activated(b)):
            return super()._product(function, a, b, **options)
        result: Tensor = function(a, b, **options)
        if not (varies(a) and varies(b)):  # 0.5 * (1 + erf(x)) is still to become a gate
            self._activated[result] = True
        return result

    def _is_activated(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x in self._activated


class ResLRP(AttnLRP):
    """AttnLRP with a gamma rule where a residual connection is added: what agrees with the sum in sign counts more.

        z = a + b:    g_a = g w_a z / (w_a a + w_b b),    w = 1 + gamma where the sign is that of z, else 1

    Input times gradient is conserved: a g_a + b g_b = z g. A gamma of 0 is AttnLRP.

    Args:
        gamma: how much more.

    Raises:
        OptionError: if it is negative.
    """

    name = "reslrp"
    options: ClassVar[Mapping[str, float]] = {"gamma": 1.0}

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        if not gamma >= 0:
            raise OptionError(Option("gamma", gamma), ", expected 0 or more")
        self.gamma = gamma

    def _add(self, function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
        """A residual connection adds two hidden states `[B, T, D]`."""
        if not options and varies(a) and varies(b) and a.shape == b.shape and a.dim() == 3:
            result: Tensor = _Agreeing.apply(a, b, self.gamma)
            return result
        return super()._add(function, a, b, **options)


RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (Rule, Libra, Graded, AttnLRP, GIM, ResLRP)}


def make_rule(name: str, **options: float) -> Rule:
    """A fresh rule by its name, with its options.

    Raises:
        OptionError: if there is no such rule, or it has no such option.
    """
    if not isinstance(name, str) or name not in RULES:
        raise OptionError(f"no gradient rule {name!r}: use one of {', '.join(RULES)}")
    unknown = set(options) - set(RULES[name].options)
    if unknown:
        known = ", ".join(RULES[name].options) or "none"
        raise OptionError(f"the rule {name} has no option {', '.join(sorted(unknown))}; it has {known}")
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise OptionError(Option(option, value), f" of the rule {name}: expected a number")
    return RULES[name](**options)


def register_rule(rule: type[Rule]) -> type[Rule]:
    """Add a rule of your own, to be used by its name like the built-in ones; also as a class decorator.

    Raises:
        OptionError: if a built-in or registered rule has this name, or the class has none of its own. The same class may come
            again, also when the notebook cell that defines it is run again.
    """
    if not (isinstance(rule, type) and issubclass(rule, Rule)):
        raise TypeError(f"{rule!r} is not a subclass of attcat.capture.rules.Rule")
    name, where = vars(rule).get("name"), (rule.__module__, rule.__qualname__)
    if not isinstance(name, str) or not name.isidentifier():
        raise OptionError(
            f"{rule.__qualname__} has no name that can be typed: give the class one, e.g. name = 'my_rule'"
        )
    there = RULES.get(name, rule)
    if (there.__module__, there.__qualname__) != where:
        raise OptionError(f"there is a rule {name!r} already: choose another name; taken are {', '.join(RULES)}")
    RULES[name] = rule
    return rule


# -- replacements ----------------------------------------------------------------------------------------------------


def _clamped(function: TorchFunction, x: Tensor, *bounds: Any, **options: Any) -> Tensor:
    """x within bounds, times a constant gate where 0 is within them too; otherwise as it is."""
    low, high = (*bounds, None, None)[:2]
    low, high = options.get("min", low), options.get("max", high)
    numbers = all(bound is None or isinstance(bound, (int, float)) for bound in (low, high))
    if not varies(x) or not numbers or (low is not None and low > 0) or (high is not None and high < 0):
        result: Tensor = function(x, *bounds, **options)
        return result
    # A copy: a mask may be written over it in place, which no view of a function of ours allows.
    return gate(function, x, *bounds, **options).clone()


def _gated_half(function: TorchFunction, x: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b) with a constant gate, for the halves a and b of x."""
    a, b = x.chunk(2, dim)
    return a * b.detach().sigmoid()


RECOMPUTED_ON: tuple[str, ...] = ("cpu",)
"""Where constant attention weights are computed again for the backward pass: on a CPU the fused kernel's own takes more than
twice the time of its forward pass, and most of that for queries and keys."""


def _attention(
    function: TorchFunction, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
) -> Tensor:
    """sum_j a_ij v_j with constant a."""
    call = Call.of(query.detach(), key.detach(), value, *args, **options)
    usual = value.dim() == 4 and query.shape[0] == value.shape[0]  # what is not may still stand outside of the blocks
    if not usual or value.device.type not in RECOMPUTED_ON:
        args = tuple(_still(x) for x in args)  # a mask may depend on the hidden states, as relative positions do
        options = {name: _still(x) for name, x in options.items()}
        fused: Tensor = function(query.detach(), key.detach(), value, *args, **options)
        return fused
    with torch.no_grad():
        output = function(call.query, call.key, value, *args, **options)
    result: Tensor = _ConstantAttention.apply(value, output, call)
    return result


def _still(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


class _ConstantAttention(torch.autograd.Function):
    """An output that was computed elsewhere, whose gradient goes to the values only."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, output: Tensor, call: Call) -> Tensor:
        ctx.call, ctx.groups = call, value.shape[1]
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.call.pulled_back(gradient, ctx.groups), None, None


def _constant_result(function: TorchFunction, *args: Any, **options: Any) -> Tensor:
    """An attention weight, a denominator or a gate: its value counts, its gradient does not."""
    result: Tensor = function(*args, **options)
    return result.detach()


def shared_by(factors: Sequence[float], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors as they are, each with its gradient times its factor."""
    result: tuple[Tensor, ...] = _Shared.apply(factors, *tensors)
    return result


def as_weights(softmax: Tensor, factor: float = 1.0) -> Tensor:
    """A softmax as it is, known as weights from here on, with its gradient times a factor."""
    result: Tensor = _Weights.apply(softmax, factor)
    return result


class _Shared(torch.autograd.Function):
    """The identity of several tensors, each with its gradient times a factor of its own."""

    @staticmethod
    def forward(ctx: Any, factors: Sequence[float], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.factors = factors
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (None, *(_times(gradient, factor) for gradient, factor in zip(gradients, ctx.factors, strict=True)))


class _Weights(torch.autograd.Function):
    """A softmax, with its gradient times a factor. Its name in the graph says that a tensor is made of weights."""

    @staticmethod
    def forward(ctx: Any, softmax: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return softmax.view_as(softmax)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _times(gradient, ctx.factor), None


def _times(gradient: Tensor | None, factor: float) -> Tensor | None:
    return gradient if gradient is None or factor == 1 else gradient * factor


STEPS_BACK = 6
"""How many operations may lie between a softmax and the product that it weighs: a cast, dropout, a reshape, a slice, ..."""


def _made_of_weights(x: Tensor) -> bool:
    """Whether x is a softmax to which nothing was done but what has one input."""
    node: Any = x.grad_fn
    for _ in range(STEPS_BACK):
        if node is None or node.name() == f"{_Weights.__name__}Backward":
            break
        before = [function for function, _ in node.next_functions if function is not None]
        node = before[0] if len(before) == 1 else None
    else:
        return False
    return node is not None


def _quotient(function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
    """a / b with constant b, the denominator of a normalisation."""
    result: Tensor = function(a, b.detach() if varies(b) else b, **options)
    return result


def _sampled(function: TorchFunction, input: Tensor, grid: Tensor, *args: Any, **options: Any) -> Tensor:
    """Values of a feature map at places in between: linear in the map; the places are constant, as attention is."""
    result: Tensor = function(input, grid.detach(), *args, **options)
    return result


def _solution(function: TorchFunction, a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """a^-1 b with constant a, as the gated delta rule of linear attention has it."""
    result: Tensor = function(a.detach(), b, **options)
    return result


def _power(function: TorchFunction, x: Any, exponent: Any = 2) -> Tensor:
    """x^n = x * x^(n-1) with a constant second factor; roots and inverses are denominators of normalisations."""
    if not varies(x) or not isinstance(exponent, (int, float)) or exponent < 1:
        arguments = (x,) if function in (torch.square, Tensor.square) else (x, exponent)
        result: Tensor = function(*arguments)
        return result.detach() if isinstance(exponent, (int, float)) else result
    return x * (x.detach() ** (exponent - 1))


class _Softened(torch.autograd.Function):
    """A softmax, computed elsewhere, whose gradient is that of one at another temperature (without its factor 1 / T)."""

    @staticmethod
    def forward(ctx: Any, products: Tensor, weights: Tensor, temperature: float, axis: int) -> Tensor:
        ctx.save_for_backward(products)
        ctx.temperature, ctx.axis = temperature, axis
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (products,) = ctx.saved_tensors
        softer = (products / ctx.temperature).softmax(ctx.axis).nan_to_num(0.0)  # a padding query may see no key at all
        centred = gradient - (gradient * softer).sum(ctx.axis, keepdim=True)
        return (softer * centred).to(products.dtype), None, None, None


class _Agreeing(torch.autograd.Function):
    """a + b, whose gradient favours the summand that has the sign of the sum."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.gamma = gamma
        return a + b

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        z = a + b
        of_a, of_b = (1 + ctx.gamma * (x * z > 0) for x in (a, b))
        ratio = gradient * (z / (of_a * a + of_b * b)).nan_to_num(nan=1.0)
        return ratio * of_a, ratio * of_b, None


def varies(x: Any) -> bool:
    """Whether x depends on the hidden states: inside a trace parameters are constants."""
    return isinstance(x, Tensor) and x.requires_grad
