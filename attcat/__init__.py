"""AttCAT: find out which words or patches decided a transformer's prediction.

explainer = attcat.Explainer(model, processor)
explainer("A gripping, beautifully acted film.").show()

Nothing is imported before it is asked for, so that the command line starts at once.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attribution import Window
    from .capture.rules import RULES, register_rule
    from .comparison import Comparison, compare
    from .errors import (
        AttCATError,
        CaptureError,
        InputError,
        LoadError,
        OptionError,
        OutOfMemoryError,
        ProcessorError,
        TargetError,
        TooLongError,
        UnsupportedModelError,
    )
    from .explainer import Explainer
    from .explanation import Explanation, Generation, ImageText, Summary, TextText, aggregate, load
    from .methods import METHODS, Method, register_method
    from .model import Adapter, Encoding, TextAdapter, VisionAdapter, register, register_head, supported_models
    from .tokens import Interleaved, Segment, Shares, Tokens, View, Waveform, Word

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "RULES",
    "Adapter",
    "AttCATError",
    "CaptureError",
    "Comparison",
    "Encoding",
    "Explainer",
    "Explanation",
    "Generation",
    "ImageText",
    "InputError",
    "Interleaved",
    "LoadError",
    "Method",
    "OptionError",
    "OutOfMemoryError",
    "ProcessorError",
    "Segment",
    "Shares",
    "Summary",
    "TargetError",
    "TextAdapter",
    "TextText",
    "Tokens",
    "TooLongError",
    "UnsupportedModelError",
    "View",
    "VisionAdapter",
    "Waveform",
    "Window",
    "Word",
    "aggregate",
    "compare",
    "load",
    "register",
    "register_head",
    "register_method",
    "register_rule",
    "supported_models",
]

_PLACES = {
    "Adapter": "model",
    "AttCATError": "errors",
    "CaptureError": "errors",
    "Comparison": "comparison",
    "Encoding": "model",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "Generation": "explanation",
    "ImageText": "explanation",
    "InputError": "errors",
    "Interleaved": "tokens",
    "LoadError": "errors",
    "METHODS": "methods",
    "Method": "methods",
    "OptionError": "errors",
    "OutOfMemoryError": "errors",
    "ProcessorError": "errors",
    "RULES": "capture.rules",
    "Segment": "tokens",
    "Shares": "tokens",
    "Summary": "explanation",
    "TargetError": "errors",
    "TextAdapter": "model",
    "TextText": "explanation",
    "Tokens": "tokens",
    "TooLongError": "errors",
    "UnsupportedModelError": "errors",
    "View": "tokens",
    "VisionAdapter": "model",
    "Waveform": "tokens",
    "Window": "attribution",
    "Word": "tokens",
    "aggregate": "explanation",
    "compare": "comparison",
    "load": "explanation",
    "register": "model",
    "register_head": "model",
    "register_method": "methods",
    "register_rule": "capture.rules",
    "supported_models": "model",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    """A public name, or a module of the library, when it is first asked for."""
    if name in _PLACES:
        value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
