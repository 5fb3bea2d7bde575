"""Independent, plain implementations: eager attention, all hidden states, a full backward pass.

Written from the formulas, without the library's capture: transformers' own `output_attentions` and `output_hidden_states`
for its models, and a forward pass by hand for timm's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_attcat(
    model: nn.Module,
    arguments: dict[str, Tensor],
    target: int | Callable[[Any], Tensor],
    read: Tensor,
    queries: str = "mean",
) -> tuple[Tensor, Tensor]:
    """AttCAT and CAT per block of each example of a batch of one, `[L, T]` each, as published (plain gradient).

    The target is a class, or a function from the model's output to a number.
    """
    hidden, attention, output = eager_forward(model, arguments)
    for state in hidden:
        state.retain_grad()
    value = target(output) if callable(target) else getattr(output, "logits", output)[0, target]
    value.backward()
    cats, attcats = [], []
    gradients = [state.grad for state in hidden]
    for h, g, weights in zip([h.detach() for h in hidden], gradients, attention, strict=True):
        cat = [float((g[0, i] * h[0, i]).sum()) for i in range(h.shape[1])]
        rows = range(h.shape[1]) if queries == "mean" else read[0].nonzero()[:, 0].tolist()
        heads = weights[0].tolist()  # plain numbers: a tensor is looked into a thousand times slower
        weight = [sum(a[q][i] for a in heads for q in rows) / len(heads) / len(rows) for i in range(h.shape[1])]
        cats.append(cat)
        attcats.append([w * c for w, c in zip(weight, cat, strict=True)])
    return torch.tensor(attcats), torch.tensor(cats)


def eager_forward(model: nn.Module, arguments: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], Any]:
    """Block inputs `[B, T, D]`, attention matrices `[B, H, T, T]` and the output (timm: the logits), all in one graph."""
    if hasattr(model, "timm_model"):
        return timm_forward(copy.deepcopy(model.timm_model), arguments["pixel_values"])
    if not hasattr(model, "config"):
        return timm_forward(copy.deepcopy(model), arguments["pixel_values"])
    twin = eager_twin(model)
    output = twin(**arguments, output_hidden_states=True, output_attentions=True)
    return list(output.hidden_states[: len(output.attentions)]), list(output.attentions), output


def eager_twin(model: Any) -> Any:
    """A copy of a transformers model that computes attention in plain operations."""
    if hasattr(model, "set_attn_implementation"):
        twin = copy.deepcopy(model)
        twin.set_attn_implementation("eager")
        return twin
    # Before 4.53 the choice is made when a model is built.
    twin = type(model)._from_config(copy.deepcopy(model.config), attn_implementation="eager")
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def timm_forward(model: Any, pixels: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """timm's VisionTransformer, block by block, with attention written out."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))
    hidden, attention = [], []
    for block in model.blocks:
        hidden.append(x)
        attn, normed = block.attn, block.norm1(x)
        batch, length, width = normed.shape
        qkv = attn.qkv(normed).reshape(batch, length, 3, attn.num_heads, width // attn.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = ((query @ key.transpose(-2, -1)) / (width // attn.num_heads) ** 0.5).softmax(-1)
        attention.append(weights)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + block.ls1(attn.proj(mixed))
        x = x + block.ls2(block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x)))))
    return hidden, attention, model.forward_head(model.norm(x))
