"""One curve: seconds and peak memory over the number of tokens, in this process. Prints JSON.

python tests/benchmarks/scaling.py {floor,explain,plain,captum,bert:METHOD} 64 128 ...
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import workloads as w
from measure import peak, seconds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attcat


class Matrices(TorchDispatchMode):
    """Counts the tensors whose last two axes are both at least as long as the sequence."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.found = length, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and min(tensor.shape[-2:]) >= self.length:
                self.found += 1
        return result


def work_of(name: str) -> Callable[[dict[str, Tensor]], object]:
    """The curve's work, as a function of model arguments."""
    if name.startswith("bert:"):
        return attcat.Explainer(w.seeded(w.bert), method=name.removeprefix("bert:"))
    model = w.seeded(w.llama)
    w.register_llama()
    if name == "plain":
        twin = w.eager(model)
        return lambda arguments: w.plain(twin, arguments)
    if name == "captum":
        return lambda arguments: w.captum(model, arguments)
    explain = attcat.Explainer(model)
    return explain if name == "explain" else lambda arguments: w.floor(model, explain.adapter.blocks[0], arguments)


def main() -> None:
    name, lengths = sys.argv[1], [int(length) for length in sys.argv[2:]]
    work = work_of(name)
    work(w.ids(1, 32))
    curve: dict[str, Any] = {}
    for length in lengths:
        arguments = w.ids(1, length)
        found = [peak(lambda a=arguments: work(a))]
        times = [seconds(lambda a=arguments: work(a)) for _ in range(5 if length <= 512 and name != "captum" else 1)]
        curve[str(length)] = {"peak": found[0], "seconds": statistics.median(times)}
    if name == "explain" and 2048 in lengths:
        with Matrices(2048) as seen:
            work(w.ids(1, 2048))
        curve["matrices"] = seen.found
    print(json.dumps(curve))


if __name__ == "__main__":
    main()
