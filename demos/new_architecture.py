"""An adapter for a model that AttCAT has never seen, in the user's own file.

    python -m attcat.demos.new_architecture

`Dispatcher` is a small transformer in plain PyTorch that sends a message to one of three departments. It is trained
here, in a few seconds, on messages of random words of which one decides: the right explanation is known, and the last
line reports how often AttCAT finds it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attcat

DEPARTMENTS = {"smoke": "fire brigade", "fever": "doctor", "roses": "florist"}
OTHERS = re.findall(
    r"\w+", "a and at came day from garden green her house it large light my near new of old road saw sky we"
)
WORDS = ["[CLS]", *DEPARTMENTS, *OTHERS]
NUMBERS = {word: number for number, word in enumerate(WORDS)}


# -- a model, as someone else may have written it --------------------------------------------------------------------


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to what came in: [n, T, D] -> [n, T, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """One step of the residual stream."""
        query, key, value = (
            self.attend(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.merge(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.before_feed(x))


class Dispatcher(nn.Module):
    """Words' numbers [n, T], the first one `[CLS]`, to logits [n, 3]."""

    def __init__(self, width: int = 32, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(WORDS), width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(DEPARTMENTS))

    def forward(self, numbers: Tensor) -> Tensor:
        """Read the department off the first token."""
        x = self.embed(numbers)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


# -- its adapter: all that AttCAT needs to know ----------------------------------------------------------------------


@attcat.register("__main__.Dispatcher", "attcat.Dispatcher")  # as this file is called when it is run, and when imported
class DispatcherAdapter(attcat.Adapter):
    """A text becomes `[CLS]` and its words."""

    family = "Dispatcher"
    block_paths = ("blocks",)
    labels = tuple(DEPARTMENTS.values())
    can_batch = False  # one text at a time, so that there is no padding

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> attcat.Encoding:
        """Number the words, and say where in the text each is."""
        (text,) = inputs
        words = list(re.finditer(r"\w+", text))
        numbers = torch.tensor([[0, *(NUMBERS[word.group().lower()] for word in words)]])
        names = ("[CLS]", *(word.group() for word in words))
        spans = (None, *(word.span() for word in words))
        tokens = attcat.Tokens(names, special=(True, *[False] * len(words)), spans=spans)
        return attcat.Encoding({"numbers": numbers}, numbers >= 0, (tokens,), (text,))

    def read(self, encoding: attcat.Encoding) -> Tensor:
        """The head reads `[CLS]`."""
        return encoding.arguments["numbers"] == 0

    removals = ("blank",)

    def remove(
        self, encoding: attcat.Encoding, removed: Tensor | None = None, how: str | None = None
    ) -> attcat.Encoding:
        """A meaningless word in place of what is removed: for occlusion, integrated gradients and metrics."""
        self.removal(how)
        numbers = encoding.arguments["numbers"]
        removed = numbers != 0 if removed is None else removed
        return replace(encoding, arguments={"numbers": numbers.masked_fill(removed, NUMBERS["a"])})

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> attcat.Encoding:
        """Only texts are explained here."""
        raise attcat.InputError("give a text")


# -- trained, explained, checked -------------------------------------------------------------------------------------


def message(rng: random.Random, length: int = 10) -> tuple[str, str]:
    """A message, and the word that decides where it goes."""
    words = rng.choices(OTHERS, k=length)
    decisive = rng.choice(list(DEPARTMENTS))
    words[rng.randrange(length)] = decisive
    return " ".join(words), decisive


def train(model: Dispatcher, rng: random.Random, steps: int = 150) -> None:
    """Teach the model where messages go."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = [message(rng) for _ in range(32)]
        numbers = torch.tensor([[0, *(NUMBERS[word] for word in text.split())] for text, _ in batch])
        labels = torch.tensor([list(DEPARTMENTS).index(decisive) for _, decisive in batch])
        optimizer.zero_grad()
        F.cross_entropy(model(numbers), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def main(messages: int = 100) -> float:
    """Train, explain two messages, and return the share of fresh ones in which the strongest word is the decisive one."""
    rng = random.Random(0)
    torch.manual_seed(0)
    model = Dispatcher()
    train(model, rng)

    explainer = attcat.Explainer(model)
    for text in ("We saw smoke near her old house", "My roses came from a large garden"):
        explainer(text).show()
        print()

    found = 0
    for text, decisive in (message(rng) for _ in range(messages)):
        explanation = explainer(text, DEPARTMENTS[decisive])
        found += max(explanation.words(), key=lambda word: word.score).text == decisive
    print(f"The strongest word is the one that decides in {found} of {messages} messages.")
    return found / messages


if __name__ == "__main__":
    main()
