"""AttCAT: which words or patches decided a transformer's prediction.

explainer = attcat.Explainer(model, processor)
explainer("A gripping, beautifully acted film.").show()
"""

from .attribution import Window
from .capture.rules import RULES, register_rule
from .comparison import Comparison, compare
from .errors import (
    AttCATError,
    CaptureError,
    InputError,
    LoadError,
    OptionError,
    ProcessorError,
    TargetError,
    TooLongError,
    UnsupportedModelError,
)
from .explainer import Explainer
from .explanation import Explanation, Generation, ImageText, load
from .methods import METHODS, Method, register_method
from .model import Adapter, Encoding, TextAdapter, VisionAdapter, register, register_head, supported_models
from .tokens import Tokens, View, Word

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
    "LoadError",
    "Method",
    "OptionError",
    "ProcessorError",
    "TargetError",
    "TextAdapter",
    "Tokens",
    "TooLongError",
    "UnsupportedModelError",
    "View",
    "VisionAdapter",
    "Window",
    "Word",
    "compare",
    "load",
    "register",
    "register_head",
    "register_method",
    "register_rule",
    "supported_models",
]
