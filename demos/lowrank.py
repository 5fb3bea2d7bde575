"""Low-rank deltas (LoRA): train a few weights next to a frozen model, save them compactly, merge them into its state dict.

A delta is a flat dictionary of float16 tensors, written as safetensors:

* ``<linear>.down`` [rank, in] and ``<linear>.up`` [out, rank]: add ``up @ down`` to ``<linear>.weight`` [out, in];
* any other key is the name of a whole parameter, whose value replaces the encoder's (norms, biases, the head).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

DOWN, UP = ".down", ".up"


class LowRankLinear(nn.Module):
    """A frozen linear layer and its trained low-rank companion: y = W x + b + up (down x)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))  # zero: training starts at the encoder itself

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, self.base.weight, self.base.bias) + F.linear(F.linear(x, self.down), self.up)


def attach(model: nn.Module, rank: int, whole: Callable[[str], bool]) -> None:
    """Freeze `model`, except parameters that `whole` accepts by name, and give its frozen linear layers a companion."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(whole(name))
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, linear in linears:
        if not linear.weight.requires_grad:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, LowRankLinear(linear, rank))


def delta(model: nn.Module) -> dict[str, Tensor]:
    """What was trained in `model` since `attach`, as float16 tensors under the names of the plain model."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name.replace(".base.", "."): value.detach().half().contiguous() for name, value in trained.items()}


def merge(state: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the plain model: the encoder's `state` with `delta` applied, in float32; neither is changed."""
    merged = dict(state)
    for name, value in delta.items():
        if name.endswith(UP):
            layer = name.removesuffix(UP)
            merged[f"{layer}.weight"] = state[f"{layer}.weight"] + value.float() @ delta[layer + DOWN].float()
        elif not name.endswith(DOWN):
            merged[name] = value.float()
    return merged


def save(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a delta to `file`; the same tensors give the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count` items."""
    return (slice(start, start + size) for start in range(0, count, size))


def learn(model: nn.Module, batches: Iterable[dict[str, Tensor]], *, rate: float) -> None:
    """A step of AdamW for each batch: the model's arguments, with its labels."""
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    for batch in batches:
        loss = model(**batch).loss
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    model.eval()


def fit(
    model: nn.Module,
    epochs: int,
    steps: int,
    batches: Callable[[int], Iterable[tuple[dict[str, Tensor], Tensor]]],
    *,
    rate: float,
    smoothing: float = 0.0,
) -> None:
    """Train what `attach` left trainable: AdamW, a short warm-up, then a cosine decay to zero.

    `batches(epoch)` yields `steps` pairs: keyword arguments for the model, and integer labels [n]. The forward pass
    runs in bfloat16 where autocast considers it safe (faster on recent processors); trained weights stay in float32.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    total, warm = epochs * steps, max(1, epochs * steps // 20)

    def factor(step: int) -> float:
        return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / total))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for epoch in range(epochs):
        losses = []
        for inputs, labels in batches(epoch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(**inputs).logits
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: mean loss {sum(losses) / len(losses):.4f}", flush=True)
    model.eval()
