"""Connects model, trace and methods: settings, the grammar of a call, batches, and long texts in windows."""

from ..targets import Target
from .explainer import Explainer
from .rows import Input, batches
from .settings import Settings

__all__ = ["Explainer", "Input", "Settings", "Target", "batches"]
