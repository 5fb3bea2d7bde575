"""Train the delta of `embedded.sentiment` on SST-2 (Socher et al. 2013; the task as set by GLUE).

    python -m attcat.demos.train_sentiment DATA --output sentiment.safetensors

DATA holds ``sst2/train.tsv``, to learn from, and ``sst2/dev.tsv``, to measure on: a sentence, a tab, 0 (negative) or 1
(positive) per line. Takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertForSequenceClassification, PreTrainedTokenizerBase

from .embedded import build, sentiment_encoder
from .lowrank import attach, delta, fit, merge, save, slices

RANK, EPOCHS, BATCH, RATE, SEED = 24, 4, 32, 5e-4, 0


def read(file: Path) -> tuple[list[str], Tensor]:
    """Sentences, and labels [n] of 0 or 1."""
    rows = [line.rsplit("\t", 1) for line in file.read_text(encoding="utf-8").splitlines() if line]
    return [sentence for sentence, _ in rows], torch.tensor([int(label) for _, label in rows])


def is_whole(name: str) -> bool:
    """Trained entirely: biases, norms, the pooler and the head. Word and position embeddings stay the encoder's."""
    return name.endswith(".bias") or "LayerNorm" in name or "pooler" in name or "classifier" in name


def grouped(lengths: Tensor, random: torch.Generator) -> list[Tensor]:
    """All rows, shuffled, in batches of sentences of similar length: otherwise half of all tokens would be padding."""
    order = torch.randperm(len(lengths), generator=random)
    near = lengths[order] + 4 * torch.rand(len(lengths), generator=random)  # neighbours change from epoch to epoch
    order = order[near.argsort()]
    batches = [order[part] for part in slices(len(order), BATCH)]
    return [batches[index] for index in torch.randperm(len(batches), generator=random).tolist()]


@torch.inference_mode()
def accuracy(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, sentences: list[str], labels: Tensor
) -> float:
    """Share of sentences classified correctly, between 0 and 1."""
    right = 0
    for rows in slices(len(labels), 64):
        logits = model(**tokenizer(sentences[rows], padding=True, truncation=True, return_tensors="pt")).logits
        right += int((logits.argmax(-1) == labels[rows]).sum())
    return right / len(labels)


def main() -> None:
    """Train, write the delta, measure what a user would get."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/train.tsv and sst2/dev.tsv")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    config, state, tokenizer = sentiment_encoder()
    model = build(BertForSequenceClassification, config, state)
    attach(model, RANK, is_whole)
    sentences, labels = read(arguments.data / "sst2" / "train.tsv")
    lengths = torch.tensor([len(ids) for ids in tokenizer(sentences, truncation=True)["input_ids"]])

    def batches(epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        random = torch.Generator().manual_seed(SEED + epoch)
        for rows in grouped(lengths, random):
            texts = [sentences[row] for row in rows.tolist()]
            yield dict(tokenizer(texts, padding=True, truncation=True, return_tensors="pt")), labels[rows]

    fit(model, EPOCHS, -(-len(labels) // BATCH), batches, rate=RATE)
    save(delta(model), arguments.output)

    shipped = build(BertForSequenceClassification, config, merge(state, delta(model)))
    sentences, labels = read(arguments.data / "sst2" / "dev.tsv")
    print(f"SST-2 dev: {accuracy(shipped, tokenizer, sentences, labels):.2%} of {len(labels)} sentences")


if __name__ == "__main__":
    main()
