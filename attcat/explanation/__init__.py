"""Attributions with a face: they show, draw and save themselves. One of a prediction, or of a text that was written."""

from .explanation import Explanation, ImageText, TextText, load
from .generation import Generation, Source
from .summary import Summary, aggregate

__all__ = ["Explanation", "Generation", "ImageText", "Source", "Summary", "TextText", "aggregate", "load"]
