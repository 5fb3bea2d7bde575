"""What the benchmarks compare with: models of published shapes, the floor, a plain implementation, and captum.

The floor is a forward pass in the model's default attention plus `torch.autograd.grad` of the predicted class's logit
with respect to the first block's input, nothing recorded: less work cannot give a gradient at every block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

MOST = 50
"""Rounds of what is short."""

Arguments = dict[str, Tensor]
Work = Callable[[], object]


def bert(attention: str = "sdpa") -> nn.Module:
    """BERT-base: 12 blocks of width 768; ten classes, so that several can be asked for."""
    config = transformers.BertConfig(num_labels=10, attn_implementation=attention)
    return transformers.BertForSequenceClassification(config)


def gpt2(attention: str = "sdpa") -> nn.Module:
    """GPT-2: 12 blocks of width 768."""
    ends = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = transformers.GPT2Config(num_labels=10, attn_implementation=attention, **ends)
    return transformers.GPT2ForSequenceClassification(config)


def vit(attention: str = "sdpa") -> nn.Module:
    """ViT-B/16: 12 blocks of width 768, 197 tokens."""
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10, attn_implementation=attention))


def llama(attention: str = "sdpa") -> nn.Module:
    """Llama's shape, made small: 4 blocks of width 256, 4 heads, for long inputs."""
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=768,
        max_position_embeddings=16384, pad_token_id=0, num_labels=2, attn_implementation=attention,
    )  # fmt: skip
    return transformers.LlamaForSequenceClassification(config)


def writer(attention: str = "sdpa") -> nn.Module:
    """The same shape with a head for a vocabulary of 32 000 tokens."""
    config = transformers.LlamaConfig(
        vocab_size=32_000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=768,
        max_position_embeddings=16384, pad_token_id=0, attn_implementation=attention,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def tiny(attention: str = "sdpa") -> nn.Module:
    """BERT with 2 blocks of width 16."""
    config = transformers.BertConfig(
        vocab_size=1000, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        attn_implementation=attention,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def llava(attention: str = "sdpa") -> nn.Module:
    """A LLaVA with CLIP's large tower, 576 patches of a picture of 336 x 336 pixels, and 12 blocks of width 768."""
    tower = transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14,
    )  # fmt: skip
    line = transformers.LlamaConfig(
        vocab_size=1001, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048,
        attn_implementation=attention,
    )  # fmt: skip
    config = transformers.LlavaConfig(vision_config=tower, text_config=line, image_token_index=1000)
    return transformers.LlavaForConditionalGeneration(config)


def seeded(make: Callable[[str], nn.Module], attention: str = "sdpa") -> nn.Module:
    """The same random parameters every time, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(attention).eval()


def ids(rows: int, length: int) -> Arguments:
    tokens = torch.randint(5, 1000, (rows, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def pixels(rows: int) -> Arguments:
    return {"pixel_values": torch.randn(rows, 3, 224, 224, generator=torch.Generator().manual_seed(0))}


def mixed(words: int) -> Arguments:
    """A picture's 576 placeholders, and words behind them."""
    tokens = torch.cat([torch.full((1, 576), 1000), ids(1, words)["input_ids"]], 1)
    picture = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": picture}


@dataclass(frozen=True)
class Case:
    """A model and an input of one size."""

    make: Callable[[str], nn.Module]
    arguments: Arguments


CASES = {
    "BERT-base 1x32": Case(bert, ids(1, 32)),
    "BERT-base 1x128": Case(bert, ids(1, 128)),
    "BERT-base 8x128": Case(bert, ids(8, 128)),
    "BERT-base 1x512": Case(bert, ids(1, 512)),
    "ViT-B/16 1": Case(vit, pixels(1)),
    "ViT-B/16 8": Case(vit, pixels(8)),
    "GPT-2 1x512": Case(gpt2, ids(1, 512)),
}


def floor(model: nn.Module, first: nn.Module, arguments: Arguments) -> Tensor:
    """Forward, and the gradient of the predicted class's logit at the first block's input."""
    states: list[Tensor] = []

    def leaf(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        torch.set_grad_enabled(True)
        states.append((args[0] if args else kwargs["hidden_states"]).detach().requires_grad_())
        return ((states[0], *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states[0]})

    hook = first.register_forward_pre_hook(leaf, with_kwargs=True)
    try:
        with torch.no_grad():
            logits = model(**arguments).logits
    finally:
        hook.remove()
    with torch.enable_grad():
        value = logits.max(-1).values.sum()
    return torch.autograd.grad(value, states[0])[0]


def written(model: nn.Module, first: nn.Module, ids: Tensor, count: int) -> Tensor:
    """Forward, and the gradient of the last `count` tokens' summed log-probabilities at the first block's input."""
    states: list[Tensor] = []

    def leaf(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        torch.set_grad_enabled(True)
        states.append(args[0].detach().requires_grad_())
        return (states[0], *args[1:]), kwargs

    hook = first.register_forward_pre_hook(leaf, with_kwargs=True)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, logits_to_keep=count + 1).logits[0, :-1]
    finally:
        hook.remove()
    with torch.enable_grad():
        value = logits.log_softmax(-1).gather(1, ids[0, -count:, None]).sum()
    return torch.autograd.grad(value, states[0])[0]


def plain(eager: nn.Module, arguments: Arguments) -> Tensor:
    """AttCAT as one would write it: eager attention, every hidden state kept, `.backward()` into every parameter."""
    output = eager(**arguments, output_hidden_states=True, output_attentions=True)
    for state in output.hidden_states:
        state.retain_grad()
    output.logits.max(-1).values.sum().backward()
    scores = [
        (state * state.grad).sum(-1) * weights.mean((1, 2))
        for state, weights in zip(output.hidden_states[:-1], output.attentions, strict=True)
    ]
    eager.zero_grad(set_to_none=True)
    return torch.stack(scores).sum(0).detach()


def integrated(model: nn.Module, arguments: Arguments) -> Tensor:
    """captum's LayerIntegratedGradients at the word embeddings, with its default of 50 steps."""
    from captum.attr import LayerIntegratedGradients

    ids, mask = arguments["input_ids"], arguments["attention_mask"]

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask=mask).logits

    with torch.no_grad():
        target = int(forward(ids, mask)[0].argmax())
    method = LayerIntegratedGradients(forward, model.get_input_embeddings())
    baseline = torch.full_like(ids, 3)
    scores: Tensor = method.attribute(ids, baseline, target=target, additional_forward_args=(mask,), n_steps=50)
    model.zero_grad(set_to_none=True)
    return scores.sum(-1)


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounds(works: Mapping[str, Work], repeats: int, enough: float = 0.0) -> list[dict[str, float]]:
    """Seconds of each work, in rounds whose order alternates, after one of each that does not count.

    Args:
        works: what is timed.
        repeats: how many rounds at least.
        enough: go on for so many seconds, at most `MOST` rounds: what is short is disturbed most.
    """
    for work in works.values():
        work()
    found: list[dict[str, float]] = []
    while len(found) < repeats or (len(found) < MOST and sum(sum(times.values()) for times in found) < enough):
        names = list(works)[:: -1 if len(found) % 2 else 1]
        found.append({name: seconds(works[name]) for name in names})
    return found


def ratios(rounds: list[dict[str, float]], above: str, below: str) -> list[float]:
    """Of each round, the time of one work over that of another."""
    return [times[above] / times[below] for times in rounds]
