"""One model, one batch: a forward pass recorded, differentiated towards a target, and what is left of it."""

from .passes import Passes
from .recording import Recording, one_attention, record
from .values import Hidden, Needs, Queries, Trace

__all__ = ["Hidden", "Needs", "Passes", "Queries", "Recording", "Trace", "one_attention", "record"]
