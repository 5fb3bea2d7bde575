"""Compare methods on the same examples: read a dataset, explain and measure each example, write a report."""

from .data import Dataset, Example, read_dataset
from .runner import Plan, Results, run

__all__ = ["Dataset", "Example", "Plan", "Results", "read_dataset", "run"]
