"""One model, one batch: a forward pass recorded, differentiated towards a target, and what is left of it."""

from .checks import in_float64, incompleteness, looks_back, passed_by, past_the_blocks, slope_error
from .passes import Passes
from .recording import Recording, one_attention, record
from .values import Hidden, Needs, Queries, Trace

__all__ = [
    "Hidden",
    "Needs",
    "Passes",
    "Queries",
    "Recording",
    "Trace",
    "in_float64",
    "incompleteness",
    "looks_back",
    "one_attention",
    "passed_by",
    "past_the_blocks",
    "record",
    "slope_error",
]
