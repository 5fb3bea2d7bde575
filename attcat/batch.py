"""Explanations of a data set, batch by batch, on any engine: `attcat.batch.Explain`."""

from .explainer.columns import Explain

__all__ = ["Explain"]
