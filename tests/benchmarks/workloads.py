"""What is measured: models with the shapes of published ones and random parameters, and other ways to explain them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

import attcat
from attcat.adapters.gpt2 import Gpt2Adapter
from attcat.demos.train_sentiment import read

IMAGES = Path(__file__).parents[2] / "demos" / "images"
WORDS = 20000


@dataclass(frozen=True)
class Case:
    """A model, a processor, and the same input as a user gives it and as model arguments."""

    model: nn.Module
    processor: Any
    inputs: list[Any]
    arguments: dict[str, Tensor]


# -- models ------------------------------------------------------------------------------------------------------------


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model in evaluation mode, the same in every run."""
    torch.manual_seed(0)
    return make().eval()


def bert() -> nn.Module:
    """BERT-base."""
    return transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=2))


def gpt2() -> nn.Module:
    """GPT-2 (124M)."""
    config = transformers.GPT2Config(num_labels=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return transformers.GPT2ForSequenceClassification(config)


def vit() -> nn.Module:
    """ViT-B/16."""
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10))


def llama() -> nn.Module:
    """Llama's architecture (rotary positions, grouped keys, gated MLP), 4 blocks, narrow, so that attention dominates."""
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        num_labels=2,
        pad_token_id=0,
    )
    return transformers.LlamaForSequenceClassification(config)


class LlamaAdapter(Gpt2Adapter):
    """The head reads the last real token, as in GPT-2."""

    family = "Llama"
    block_paths = ("model.layers",)


def tiny() -> nn.Module:
    """A BERT of two narrow blocks, where Python is all that costs."""
    config = transformers.BertConfig(
        num_labels=2, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return transformers.BertForSequenceClassification(config)


# -- inputs ------------------------------------------------------------------------------------------------------------


def ids(rows: int, length: int) -> dict[str, Tensor]:
    """Random tokens, nothing padded."""
    tokens = torch.randint(5, WORDS, (rows, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def tokenizer(specials: bool) -> PreTrainedTokenizerFast:
    """A word of `word5 word6 ...` is a token."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {name: index for index, name in enumerate([*names, *(f"word{i}" for i in range(5, WORDS))])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if specials:
        made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=1024,
        model_input_names=["input_ids", "attention_mask"],
    )


def text_case(make: Callable[[], nn.Module], rows: int, length: int, specials: bool = True) -> Case:
    """Texts that are `length` tokens long."""
    drawn = random.Random(0)
    words = length - 2 * specials
    texts = [" ".join(f"word{drawn.randrange(5, WORDS)}" for _ in range(words)) for _ in range(rows)]
    return Case(seeded(make), tokenizer(specials), texts, ids(rows, length))


def image_case(rows: int) -> Case:
    """Photographs of 500 x 375 pixels or so, opened."""
    files = sorted(IMAGES.glob("*.jpg"))
    pictures = [Image.open(files[row % len(files)]).convert("RGB") for row in range(rows)]
    pixels = torch.randn(rows, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return Case(seeded(vit), transformers.ViTImageProcessor(), pictures, {"pixel_values": pixels})


CASES: dict[str, Callable[[], Case]] = {
    "BERT-base 1x32": lambda: text_case(bert, 1, 32),
    "BERT-base 1x128": lambda: text_case(bert, 1, 128),
    "BERT-base 8x128": lambda: text_case(bert, 8, 128),
    "BERT-base 1x512": lambda: text_case(bert, 1, 512),
    "ViT-B/16 1 image": lambda: image_case(1),
    "ViT-B/16 8 images": lambda: image_case(8),
    "GPT-2 1x512": lambda: text_case(gpt2, 1, 512, specials=False),
}


def sentences(data: Path | None, count: int) -> tuple[list[str], str]:
    """SST-2 from the data folder, or made-up sentences of like lengths; and where they are from."""
    if data is not None:
        found = [s for name in ("dev", "train") for s in read(data / "sst2" / f"{name}.tsv")[0] if s.strip()]
        return found[:count], "SST-2"
    drawn = random.Random(0)
    words = (
        "a",
        "the",
        "film",
        "story",
        "is",
        "was",
        "of",
        "and",
        "gripping",
        "dull",
        "wit",
        "plot",
        "never",
        "bright",
    )
    lengths = (max(2, min(48, round(drawn.lognormvariate(2.75, 0.6)))) for _ in range(count))
    return [" ".join(drawn.choices(words, k=length)) for length in lengths], "synthetic sentences"


# -- other ways to get a gradient or an explanation --------------------------------------------------------------------


def floor(model: nn.Module, first: nn.Module, arguments: dict[str, Tensor]) -> Tensor:
    """Forward, and the gradient of the predicted class's logit at the first block's input; nothing recorded."""
    states: list[Tensor] = []

    def leaf(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
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


def eager(model: nn.Module) -> nn.Module:
    """The same model with attention written out."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin


def plain(twin: nn.Module, arguments: dict[str, Tensor]) -> Tensor:
    """AttCAT as one would write it first: every state and matrix kept, backward into every parameter. `[B, T]`."""
    output = twin(**arguments, output_hidden_states=True, output_attentions=True)
    states = output.hidden_states[:-1]
    for state in states:
        state.retain_grad()
    output.logits.max(-1).values.sum().backward()
    cats = [(state * state.grad).sum(-1) for state in states]
    scores = sum(a.mean((1, 2)) * cat for a, cat in zip(output.attentions, cats, strict=True))
    twin.zero_grad()
    return scores.detach()


def captum(model: nn.Module, arguments: dict[str, Tensor]) -> Tensor:
    """captum's LayerIntegratedGradients at the embeddings with its default 50 steps, `[B, T]`."""
    from captum.attr import LayerIntegratedGradients

    mask = arguments["attention_mask"]
    method = LayerIntegratedGradients(
        lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits, model.get_input_embeddings()
    )
    blank = torch.full_like(arguments["input_ids"], 4)
    found = method.attribute(arguments["input_ids"], baselines=blank, target=0, additional_forward_args=(mask,))
    return found.sum(-1)


def register_llama() -> None:
    """Unless there is an adapter for it."""
    if "transformers.LlamaPreTrainedModel" not in attcat.supported_models():
        attcat.register("transformers.LlamaPreTrainedModel")(LlamaAdapter)
