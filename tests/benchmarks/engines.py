"""What an engine adds to the plain loop: `python tests/benchmarks/engines.py [rows] [--ray]`.

A BERT of 12 blocks and width 256 with random weights, sentences of 4 to 24 words. Seconds of the processor are of this process
and do not depend on what else the machine does; the wall clock does.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow
import saved
import torch
import transformers
from pyarrow import parquet

from attcat.batch import Explain
from attcat.cli import scale

BATCH = 128


def model(folder: Path) -> str:
    config = transformers.BertConfig(
        vocab_size=len(saved.WORDS),
        hidden_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = saved.tokenizer()
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return str(folder)


def measured(name: str, rows: int, work: Callable[[], Any]) -> float:
    processor, wall = time.process_time(), time.perf_counter()
    work()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    print(f"| {name} | {1000 * processor / rows:.2f} | {1000 * wall / rows:.2f} |", flush=True)
    return processor


def main() -> None:
    count = int(next((one for one in sys.argv[1:] if one.isdigit()), "1024"))
    torch.set_num_threads(1)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(saved.WORDS[5:11], k=draw.randint(4, 24))) for _ in range(count)]
    batches = [texts[start : start + BATCH] for start in range(0, count, BATCH)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        explain = Explain(model(folder / "model"))
        explain.explainer(batches[0])
        source = folder / "data.parquet"
        parquet.write_table(pyarrow.table({"text": texts}), source)
        print("| way | processor, ms per row | wall clock, ms per row |\n|---|---|---|")
        plain = measured("plain loop, batches of 128", count, lambda: [explain.explainer(batch) for batch in batches])
        listed = measured("`Explain` on columns", count, lambda: [explain({"text": batch}) for batch in batches])
        local = measured(
            "`--engine local`", count, lambda: scale.run(explain, source, folder / "local", "local", None, size=256)
        )
        print(f"\ncallable: {listed / plain - 1:+.1%}; with Parquet: {local / plain - 1:+.1%}")
        if "--ray" in sys.argv:
            import ray

            os.environ.setdefault("RAY_worker_niceness", "0")
            for workers in (1, 2):
                ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
                out = folder / f"ray{workers}"
                scale.run(explain, source, folder / f"warm{workers}", "ray", workers, size=-(-count // workers))
                measured(
                    f"Ray, {workers} workers, their start included",
                    count,
                    lambda out=out, workers=workers: scale.run(explain, source, out, "ray", workers, size=256),  # type: ignore[misc]
                )
                ray.shutdown()


if __name__ == "__main__":
    main()
