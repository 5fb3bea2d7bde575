"""Relevance once more, slowly: from the formulas, operation by operation, over the graph of a whole model.

The library replaces operations while the model runs, and lets autograd carry relevance back. Here nothing is replaced: a
plain float64 forward pass of an eager twin is written down as a list of elementary operations (`make_fx`), which is then
walked from the logit to the first block, a rule for each operation. Two tables of rules: Chefer et al. (CVPR 2021), and
AttnLRP (Achtibat et al., ICML 2024).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from reference import eager_twin
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten

ELEMENTWISE = {aten.gelu, aten.silu, aten.tanh, aten.relu}
SUMS = {aten.mean, aten.sum}
ADDITIONS = {aten.add, aten.sub}
PRODUCTS = {aten.bmm, aten.matmul}

Rules = Callable[["Step"], "list[Tensor | None]"]


class Step:
    """One operation of the graph: its inputs, which of them vary, its result and that one's relevance."""

    def __init__(self, node: torch.fx.Node, values: dict[torch.fx.Node, Any], varying: set[torch.fx.Node]) -> None:
        self.node = node
        self.kind = getattr(node.target, "overloadpacket", node.target)
        self.nodes = [n for n in node.all_input_nodes if n in varying]
        self.inputs = [values[n] for n in self.nodes]
        self.result = values[node]
        self.values = values
        self.relevance: Any = None

    def run(self, *changed: Tensor) -> Any:
        """The operation with other values for its varying inputs."""
        table = {**self.values, **dict(zip(self.nodes, changed, strict=True))}
        args = torch.fx.node.map_arg(self.node.args, lambda n: table[n])
        kwargs = torch.fx.node.map_arg(self.node.kwargs, lambda n: table[n])
        return self.node.target(*args, **kwargs)

    def back(self, gradient: Tensor) -> list[Tensor]:
        """J^T gradient, for every varying input."""
        leaves = [x.detach().clone().requires_grad_() for x in self.inputs]
        with torch.enable_grad():
            result = self.run(*leaves)
        if isinstance(result, (tuple, list)):  # of several results those that relevance has reached
            pairs = [(r, g) for r, g in zip(result, gradient, strict=True) if g is not None]
            return list(torch.autograd.grad([r for r, _ in pairs], leaves, [g for _, g in pairs]))
        return list(torch.autograd.grad(result, leaves, gradient))

    def contributions(self, share: float = 1.0) -> list[Tensor | None]:
        """R_x = share * x * J^T (R / z)."""
        z = self.result
        ratio = torch.where(z == 0, 0.0, self.relevance / torch.where(z == 0, 1.0, z))
        return [share * x * g for x, g in zip(self.inputs, self.back(ratio), strict=True)]


def chefer(step: Step) -> list[Tensor | None]:
    """Alpha-beta (alpha = 1) for linear layers, rescaled sums, halved products; everything else passes."""
    relevance = step.relevance
    if step.kind in (aten.addmm, aten.mm):
        (x,), weight = step.inputs, step.values[step.node.args[-1]]
        found = torch.zeros_like(x)
        for part in (lambda t: t.clamp(min=0), lambda t: t.clamp(max=0)):
            z = F.relu(x) @ F.relu(weight) + (-F.relu(-x)) @ (-F.relu(-weight))
            s = torch.where(z == 0, 0.0, relevance / torch.where(z == 0, 1.0, z))
            found += part(x) * (s @ part(weight).t())
        return [found]
    if step.kind in ADDITIONS and len(step.inputs) == 2:
        first, second = step.contributions()
        sizes = first.sum().abs() + second.sum().abs()
        return [part / part.sum() * part.sum().abs() / sizes * relevance.sum() for part in (first, second)]
    if step.kind in PRODUCTS or (step.kind is aten.mul and len(step.inputs) == 2):
        return step.contributions(1 / len(step.inputs))
    if step.kind in SUMS:
        return step.contributions()
    if step.kind is aten.native_layer_norm:
        return [relevance[0]]
    if step.kind in ELEMENTWISE | ADDITIONS | {aten.mul, aten.div, aten._softmax}:
        return [relevance]
    return list(step.back(relevance))


def attnlrp(step: Step) -> list[Tensor | None]:
    """Epsilon rule with epsilon = 0, softmax by deep Taylor expansion (eq. 13), halved products (eq. 15)."""
    relevance = step.relevance
    if step.kind is aten._softmax:
        (x,), s = step.inputs, step.result
        return [torch.where(s > 0, x, 0.0) * (relevance - s * relevance.sum(-1, keepdim=True))]
    if step.kind is aten.native_layer_norm:
        (x,), (y, _, reciprocal) = step.inputs, step.result
        weight = step.values[step.node.args[2]]
        to_centred = relevance[0] / y * weight * reciprocal
        return [x * (to_centred - to_centred.mean(-1, keepdim=True))]
    if step.kind in ELEMENTWISE:
        return [relevance]
    if step.kind in PRODUCTS or (step.kind is aten.mul and len(step.inputs) == 2):
        return step.contributions(1 / len(step.inputs))
    if step.kind in ADDITIONS | SUMS | {aten.mul, aten.div, aten.addmm, aten.mm}:
        return step.contributions()
    return list(step.back(relevance))


class Graph:
    """What a model computes of one example, without padding, from the first block's input to the logit of a class."""

    def __init__(self, model: nn.Module, adapter: Any, arguments: dict[str, Tensor], target: int) -> None:
        twin = plain_twin(model).double()
        blocks = type(adapter)(twin, adapter.processor).blocks
        arguments = {n: v.double() if v.is_floating_point() else v for n, v in arguments.items()}
        if not hasattr(twin, "score"):  # without padding there is nothing to mask; only GPT-2 asks what is padding
            arguments.pop("attention_mask", None)
        first = first_state(twin, blocks[0], arguments)

        def logit(state: Tensor) -> Tensor:
            hook = blocks[0].register_forward_pre_hook(lambda m, a, k: with_state(a, k, state), with_kwargs=True)
            try:
                return class_logits(twin, arguments)[0, target]
            finally:
                hook.remove()

        with torch.no_grad():
            self.graph = make_fx(logit)(first)
            self.logit = logit(first)
        self.steps = list(_walk(self.graph, first))

    def propagate(self, rules: Rules) -> tuple[Tensor, list[Tensor]]:
        """The relevance of the first block's input `[1, T, D]`, and of every softmax `[1, H, T, T]` in order.

        Chefer's relevance starts from 1, AttnLRP's from the logit itself.
        """
        start = torch.ones((), dtype=torch.double) if rules is chefer else self.logit
        return _back(self.graph, self.steps, start, rules)


def _walk(graph: torch.fx.GraphModule, first: Tensor) -> Iterator[tuple[torch.fx.Node, Step | None]]:
    """Every node with its value; a Step where it varies with the first state."""
    values: dict[torch.fx.Node, Any] = {}
    varying: set[torch.fx.Node] = set()
    with torch.no_grad():
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = first
                varying.add(node)
            elif node.op == "get_attr":
                values[node] = getattr(graph, node.target)
            elif node.op == "call_function":
                args = torch.fx.node.map_arg(node.args, lambda n: values[n])
                kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: values[n])
                values[node] = node.target(*args, **kwargs)
                if any(n in varying for n in node.all_input_nodes):
                    varying.add(node)
                    yield node, Step(node, values, varying)


def _back(
    graph: torch.fx.GraphModule, steps: list[Any], relevance_of_logit: Tensor, rules: Rules
) -> tuple[Tensor, list[Tensor]]:
    (start,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    (end,) = (node for node in graph.graph.nodes if node.op == "output")
    relevance: dict[Any, Any] = {end.all_input_nodes[0]: relevance_of_logit}
    softmaxes = []
    for node, step in reversed(steps):
        if node not in relevance:
            continue
        step.relevance = relevance[node]
        if step.kind is aten._softmax:
            softmaxes.insert(0, relevance[node])
        if getattr(node.target, "__name__", "") == "getitem":  # one of several results
            source, place = node.args
            parts = relevance.setdefault(source, [None] * len(step.values[source]))
            parts[place] = relevance[node] if parts[place] is None else parts[place] + relevance[node]
            continue
        for source, found in zip(step.nodes, rules(step), strict=True):
            relevance[source] = relevance[source] + found if source in relevance else found
    return relevance[start], softmaxes


# -- twins -----------------------------------------------------------------------------------------------------------


def plain_twin(model: nn.Module) -> nn.Module:
    """A copy whose attention is a softmax between two products, and whose activations are single operations."""
    of_transformers = hasattr(model, "config") and not hasattr(model, "timm_model")
    twin = eager_twin(model) if of_transformers else copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, nn.GELU(approximate="tanh"))
    return twin.eval().requires_grad_(False)


def class_logits(model: nn.Module, arguments: dict[str, Tensor]) -> Tensor:
    if hasattr(model, "config"):
        return model(**arguments).logits
    return model(arguments["pixel_values"])


def with_state(args: tuple, kwargs: dict, state: Tensor) -> tuple[tuple, dict]:
    return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})


def first_state(model: nn.Module, block: nn.Module, arguments: dict[str, Tensor]) -> Tensor:
    found: list[Tensor] = []
    hook = block.register_forward_pre_hook(
        lambda m, a, k: found.append(a[0] if a else k["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        class_logits(model, arguments)
    hook.remove()
    return found[0].detach()
