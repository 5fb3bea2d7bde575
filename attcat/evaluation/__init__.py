"""Methods against each other on the same examples: a dataset is read, each is explained and measured, a report written."""

from .data import Dataset, Example, read_dataset
from .runner import Plan, Results, run

__all__ = ["Dataset", "Example", "Plan", "Results", "read_dataset", "run"]
