"""What the core has to know about a model, and nothing else: the interface that every family's adapter fills in.

An adapter says which modules are the blocks, how an input becomes model arguments and named tokens, where the logits are
and which tokens the head reads. `TextAdapter` and `VisionAdapter` do this for anything with a tokenizer or an image
processor, so that a family is mostly data:

    @attcat.register("my_package.MyEncoder")
    class MyEncoderAdapter(attcat.TextAdapter):
        family = "MyEncoder"
        block_paths = ("encoder.layers",)
"""

from ..capture.modes import Uncut
from ..capture.streams import Streams
from . import moments, regions, segments  # noqa: F401 - register their heads
from .adapter import GUIDE, Adapter, config_labels
from .audio import AudioAdapter
from .bound import borrowed
from .encoding import Encoding, content_of, first_of, last_of
from .heads import Head, register_head
from .registry import find_adapter, known_adapter, no_adapter, register, supported_models
from .signal import SignalAdapter
from .text import TextAdapter
from .video import VideoAdapter
from .vision import VisionAdapter
from .wrappers import names_of

__all__ = [
    "GUIDE",
    "Adapter",
    "AudioAdapter",
    "Encoding",
    "Head",
    "SignalAdapter",
    "Streams",
    "TextAdapter",
    "Uncut",
    "VideoAdapter",
    "VisionAdapter",
    "borrowed",
    "config_labels",
    "content_of",
    "find_adapter",
    "first_of",
    "known_adapter",
    "last_of",
    "names_of",
    "no_adapter",
    "register",
    "register_head",
    "supported_models",
]
