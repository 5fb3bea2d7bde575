"""Models without an adapter: what an adapter would say is found by experiment.

One forward pass shows the blocks (`attcat.capture.survey`). Which tokens the head reads is seen by changing the last state of
one token at a time and watching the logits; whether the model can be given padded batches, by comparing one with its rows;
where the patches of a picture end up, by changing one patch. What stays ambiguous is an error that shows the adapter to write.
"""

from .find import adapter_of
from .text import DiscoveredText
from .vision import DiscoveredVision

__all__ = ["DiscoveredText", "DiscoveredVision", "adapter_of"]
