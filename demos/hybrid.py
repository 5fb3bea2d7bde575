"""Does an explanation point at the sentence that says so? Two sentences of different classes, joined to one text.

    python -m attcat.demos.hybrid DATA [--model FOLDER] [--limit 200] [--seed 0]

DATA holds ``sst2/dev.tsv``. People's marks of what matters are a matter of taste; here it is known by how a text is made: of a
sentence that speaks for one class and one that speaks for the other, both named rightly where they stand alone, each class is
explained, and its evidence is the sentence of that class (hybrid documents: Poerner, Roth, Schuetze, ACL 2018; on pictures the
grid pointing game asks the same). Either may come first. Prints Markdown: the share of texts and classes whose best word lies
in the right sentence (pointing), the area under the precision-recall curve over all words, and paired differences from OddsCAT.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import attcat
from attcat.evaluation.runner import choose
from attcat.metrics.plausibility import auprc, precision_at_k

from .embedded import sentiment
from .faithfulness import paired

METHODS = (
    "oddscat",
    "attcat",
    "attnlrp",
    "cat",
    "fullgrad_plus",
    "input_x_gradient+libra",
    "attcat+plain",
    "attention",
    "rollout",
    "oddscat:samples=8",
    "integrated_gradients",
    "random",
)
CLASSES = (0, 1)


@dataclass(frozen=True)
class Document:
    """Two sentences in one text.

    Args:
        text: both.
        spans: where the sentence of each class lies, half-open characters.
    """

    text: str
    spans: Mapping[int, tuple[int, int]]


def joined(first: str, second: str, first_class: int) -> Document:
    """A text of two sentences, the second of the other class."""
    text = f"{first} {second}"
    return Document(text, {first_class: (0, len(first)), 1 - first_class: (len(first) + 1, len(text))})


def documents(explainer: attcat.Explainer, lines: Sequence[str], count: int, seed: int) -> list[Document]:
    """So many at most, of sentences of which the model names each rightly; none is used twice."""
    drawn = [lines[index].rpartition("\t") for index in choose(seed, len(lines))]
    sentences = [text.strip() for text, _, _ in drawn]
    named = [one.target for one in explainer(sentences)]
    by_class = {
        each: [s for s, n, (*_, label) in zip(sentences, named, drawn, strict=True) if n == each == int(label)]
        for each in CLASSES
    }
    order = random.Random(seed)
    found = []
    for pair in list(zip(by_class[0], by_class[1], strict=False))[:count]:
        first = order.choice(CLASSES)
        found.append(joined(pair[first], pair[1 - first], first))
    return found


def measured(explainer: attcat.Explainer, texts: Sequence[Document]) -> tuple[list[float], list[float]]:
    """Pointing and area of each text, as the mean over its classes."""
    explained = [explainer([one.text for one in texts], each) for each in CLASSES]
    pointing, area = [], []
    for document, *explanations in zip(texts, *explained, strict=True):
        scored = [_scored(one, document.spans[each]) for each, one in zip(CLASSES, explanations, strict=True)]
        pointing.append(mean(precision_at_k(scores, gold, 1) for scores, gold in scored))
        area.append(mean(auprc(scores, gold) for scores, gold in scored))
    return pointing, area


def _scored(explanation: attcat.Explanation, span: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The words' scores `[n]`, and which of them begin in the span, bool `[n]`."""
    words = explanation.words()
    gold = torch.tensor([span[0] <= word.start < span[1] for word in words])
    return torch.tensor([float(word.score) for word in words]), gold


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/dev.tsv")
    parser.add_argument("--model", help="folder of another classifier of the same classes [default: the embedded one]")
    parser.add_argument("--limit", type=int, default=200, help="texts")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    given = parser.parse_args(arguments)
    model: Any
    tokenizer: Any
    if given.model:
        model = AutoModelForSequenceClassification.from_pretrained(given.model, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(given.model)
    else:
        model, tokenizer = sentiment()
    lines = (given.data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    texts = documents(attcat.Explainer(model, tokenizer), lines, given.limit, given.seed)
    pointing: dict[str, list[float]] = {}
    area: dict[str, list[float]] = {}
    for method in METHODS:
        pointing[method], area[method] = measured(attcat.Explainer(model, tokenizer, method=method), texts)
    print(f"{len(texts)} texts:\n")
    for values, head in ((pointing, "pointing"), (area, "AUPRC")):
        print(paired(values, ("method", head, f"minus `{METHODS[0]}`")) + "\n", flush=True)


if __name__ == "__main__":
    main()
