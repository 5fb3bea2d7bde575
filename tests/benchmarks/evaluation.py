"""Is an evaluation bound by the model? Perturbation curves against the same number of plain batched forward passes.

    python tests/benchmarks/evaluation.py [--repeats 5] [--examples 32]

For each way to take tokens out: the time of `perturbation_curves` (ranking, copying, batching, running), divided by that
of plain passes over as many rows of the same lengths, sorted and batched by the same budget of tokens, with tensors that
are ready. The two take turns, and the figure is the median. The models have the shapes of the embedded ones and random
parameters. Everything runs on one thread. The target is a ratio below 1.25.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn

import attcat
from attcat.explainer import batches
from attcat.metrics import Ablation, perturbation_curves

BUDGET = 4096


def texts(examples: int) -> tuple[nn.Module, list[dict[str, Tensor]], list[Tensor]]:
    """BERT of 6 blocks of width 384; 8 to 48 tokens, as the sentences of SST-2 have."""
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 49, (examples,), generator=generator).tolist()
    rows = [torch.randint(1000, 30000, (length,), generator=generator) for length in lengths]
    inputs = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]
    return transformers.BertForSequenceClassification(config).eval(), inputs, [torch.rand(n) for n in lengths]


def pictures(examples: int) -> tuple[nn.Module, list[dict[str, Tensor]], list[Tensor]]:
    """DINOv2 of 12 blocks of width 384; 98 x 98 pixels, hence 49 patches."""
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14, num_labels=10
    )
    generator = torch.Generator().manual_seed(0)
    inputs = [{"pixel_values": torch.randn(3, 98, 98, generator=generator)} for _ in range(examples)]
    return transformers.Dinov2ForImageClassification(config).eval(), inputs, [torch.rand(49) for _ in inputs]


class Joined(Ablation):
    """Ready-made arguments in one batch, as strings and pictures come."""

    def __init__(self, explainer: attcat.Explainer, inputs: list[dict[str, Tensor]], how: str) -> None:
        super().__init__(explainer, inputs, how, budget=BUDGET)
        adapter = self.adapter
        if "pixel_values" in inputs[0]:
            joined = {"pixel_values": torch.stack([row["pixel_values"] for row in inputs])}
        else:
            joined = {
                name: nn.utils.rnn.pad_sequence([row[name] for row in inputs], batch_first=True) for name in inputs[0]
            }
        self.encodings = (adapter.encode_arguments(joined),)
        self._places = [(0, row) for row in range(len(inputs))]
        self.run: list[int] = []

    def _run(self, jobs: list[tuple[int, Tensor]]) -> Tensor:
        shrinks = self.how in ("delete", "drop")
        self.run += [len(removed) - shrinks * int(removed.sum()) for _, removed in jobs]
        return super()._run(jobs)


def plain(model: nn.Module, lengths: list[int], picture: bool) -> Callable[[], None]:
    """Forward passes over rows of these lengths, in as few batches as the budget allows."""
    shapes = [(len(batch), max(lengths[i] for i in batch)) for batch in batches(lengths, None, BUDGET)]
    if picture:
        ready = [{"pixel_values": torch.randn(rows, 3, 98, 98)} for rows, _ in shapes]
    else:
        ids = [torch.randint(1000, 30000, shape) for shape in shapes]
        ready = [{"input_ids": x, "attention_mask": torch.ones_like(x)} for x in ids]

    def run() -> None:
        with torch.inference_mode():
            for arguments in ready:
                model(**arguments)

    return run


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(kind: str, how: str, examples: int, repeats: int) -> tuple[float, int]:
    """The median ratio, and how many rows were run."""
    model, inputs, scores = (texts if kind == "text" else pictures)(examples)
    explainer = attcat.Explainer(model, None)

    def curves() -> Joined:
        ablation = Joined(explainer, inputs, how)
        perturbation_curves(ablation, scores)
        return ablation

    baseline = plain(model, curves().run, kind == "picture")
    baseline()
    ratios = [seconds(curves) / seconds(baseline) for _ in range(repeats)]
    return statistics.median(ratios), len(curves().run)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--examples", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| input | removal | rows | time / plain passes |\n|---|---|---|---|")
    for kind, how in (
        ("text", "pad"),
        ("text", "delete"),
        ("picture", "zero"),
        ("picture", "mean"),
        ("picture", "blur"),
    ):
        examples = given.examples if kind == "text" else max(1, given.examples // 4)
        ratio, rows = measure(kind, how, examples, given.repeats)
        print(f"| {kind} | {how} | {rows} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
