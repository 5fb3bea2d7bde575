"""Connects model, trace and methods: settings, the grammar of a call, batches, and long texts in windows."""

from ..capture.rules import RULES, make_rule
from ..targets import Target
from ..trace import Hidden, Queries
from .explainer import Explainer
from .rows import Input, batches
from .settings import Settings

__all__ = ["RULES", "Explainer", "Hidden", "Input", "Queries", "Settings", "Target", "batches", "make_rule"]
